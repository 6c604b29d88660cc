# What postgres.sh and pgbackrest.sh share, which source it: programs of Debian's packages, of this
# machine's release or another, are laid out in the cache so that they run as they are.
# shellcheck shell=bash

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# need makes sure that a command exists: need COMMAND PACKAGE
need() {
	command -v "$1" >/dev/null && return
	[ "$(id -u)" = 0 ] || die "$1 is missing; as root: apt-get install $2"
	echo "${0##*/}: installing $2 for $1" >&2
	{ apt-get install -y -qq --no-install-recommends "$2" ||
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; }; } >&2 ||
		die "cannot install $2"
}

cache_folder() {
	if [ -n "${BASIN_CACHE:-}" ]; then
		realpath -m -- "$BASIN_CACHE"
	elif [ "$(id -u)" = 0 ]; then
		echo /var/cache/basin
	else
		realpath -m -- "${XDG_CACHE_HOME:-$HOME/.cache}/basin"
	fi
}

# machine_archives prints a line "KIND URI KEYRING" for each Debian archive that
# this machine installs from; KIND is main or security. It reads both forms of
# apt's lists, and takes the archive that carries the machine's own release.
machine_archives() {
	local release
	# shellcheck source=/dev/null
	release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v release="$release" '
		function flush(    n, i, s) {
			if (uri != "" && !off && (" " components " ") ~ / main /) {
				n = split(suites, s, " ")
				for (i = 1; i <= n; i++) {
					if (s[i] == release) print "main", uri, key
					if (s[i] == release "-security") print "security", uri, key
				}
			}
			uri = suites = components = key = ""; off = 0
		}
		/^#/ { next }
		/^[ \t]*$/ { flush(); next }
		/^Types:/ && !/[: ]deb( |$)/ { off = 1 }
		/^Enabled:/ && tolower($2) == "no" { off = 1 }
		/^URIs:/ { uri = $2 }
		/^Suites:/ { sub(/^[^:]*:[ \t]*/, ""); suites = $0 }
		/^Components:/ { sub(/^[^:]*:[ \t]*/, ""); components = $0 }
		/^Signed-By:[ \t]*\// { key = $2 }
		END { flush() }'
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk -v release="$release" '
		$1 != "deb" { next }
		{
			key = ""
			if (match($0, /signed-by=[^] ]+/)) key = substr($0, RSTART + 10, RLENGTH - 10)
			sub(/\[[^]]*\]/, "")
			if ((" " $0 " ") !~ / main /) next
			if ($3 == release) print "main", $2, key
			if ($3 == release "-security") print "security", $2, key
		}'
}

# apt_lists prints the lines of a sources.list: apt_lists TYPE SUITE
apt_lists() {
	local kind uri key seen=
	while read -r kind uri key; do
		case $seen in *"$kind"*) continue ;; esac
		seen="$seen $kind"
		key=${key:-/usr/share/keyrings/debian-archive-keyring.gpg}
		case $kind in
		main)
			echo "$1 [signed-by=$key] $uri $2 main"
			echo "$1 [signed-by=$key] $uri $2-updates main"
			;;
		security) echo "$1 [signed-by=$key] $uri $2-security main" ;;
		esac
	done < <(machine_archives)
}

# apt_setup makes a private apt in a folder, with the machine's way to reach its
# mirror but another release, and as if nothing were installed, so that the C
# library and all others come along: apt_setup DIR TYPE SUITE
apt_setup() {
	mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial" "$1/none"
	: >"$1/status"
	apt_lists "$2" "$3" >"$1/sources.list"
	[ -s "$1/sources.list" ] || die "apt on this machine has no Debian archive to install from"
	cat >"$1/apt.conf" <<-END
		Dir::State "$1/state";
		Dir::State::status "$1/status";
		Dir::Cache "$1/cache";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "$1/none";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "$1/none";
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Debug::NoLocking "true";
		#clear Acquire::IndexTargets::deb::DEP-11;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
	END
	apt-get -c "$1/apt.conf" -qq update
}

# elf_files prints the programs and libraries below a folder.
elf_files() {
	local file
	find "$1" -type f -size +1k | while read -r file; do
		if [ "$(head -c 4 "$file" | tr -d '\0')" = $'\177ELF' ]; then echo "$file"; fi
	done
}

# loader runs the root's own dynamic loader: loader ROOT ARGUMENT...
loader() {
	local root=$1
	shift
	"$(find "$root" -name ld-linux-x86-64.so.2 | head -n 1)" --inhibit-cache \
		--library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$@"
}

# collect_libraries copies the libraries that programs load into
# PREFIX/lib/runtime, none of them the machine's: collect_libraries ROOT PREFIX
collect_libraries() {
	local file soname path
	mkdir "$2/lib/runtime"
	cp -L "$(find "$1" -name ld-linux-x86-64.so.2 | head -n 1)" "$2/lib/runtime/"
	elf_files "$2" | while read -r file; do
		loader "$1" --list "$file" || die "${file##*/}: its libraries cannot be listed"
	done | awk '$2 == "=>" && $1 !~ "/" { print $1, $3 }' | sort -u >"$2/libraries"
	while read -r soname path; do
		case $path in
		"$1"/*) cp -L "$path" "$2/lib/runtime/$soname" ;;
		*) die "library $soname: not in the packages" ;;
		esac
	done <"$2/libraries"
	rm "$2/libraries"
}

# bind_programs makes every program use the loader and the libraries beside it:
# bind_programs ROOT BUILT PREFIX. The path goes into DT_RPATH, not DT_RUNPATH, as
# only that one also holds for what a library or an extension loads in turn.
bind_programs() {
	local file
	elf_files "$2" | while read -r file; do
		case $file in *.so | *.so.*) continue ;; esac
		loader "$1" "$1/usr/bin/patchelf" --set-interpreter "$3/lib/runtime/ld-linux-x86-64.so.2" \
			--force-rpath --set-rpath "$3/lib/runtime" "$file"
	done
}
