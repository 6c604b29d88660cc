#!/bin/bash
# Installs the newest pgBackRest of Debian's testing suite into the cache, beside which
# bench-repository.sh measures, and prints the path of the program.
#
#	build/pgbackrest.sh
#
# It lands in CACHE/tools/pgbackrest with the libraries it needs; build/postgres.sh says what CACHE is.
# To move on to a newer one, remove that folder and run this again.
set -euo pipefail
umask 022
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$(dirname -- "$(realpath -- "$0")")/debian.sh"

main() {
	local tools prefix deb
	[ "$(uname -sm)" = "Linux x86_64" ] || die "only Linux on x86_64 is known here"
	tools=$(cache_folder)/tools prefix=$tools/pgbackrest
	mkdir -p "$tools"
	exec 9>"$tools/.lock"
	flock 9
	if [ ! -e "$prefix/installed" ]; then
		need dpkg-deb dpkg
		need apt-get apt
		work=$(mktemp -d "$tools/.work.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		apt_setup "$work/apt" deb testing
		apt-get -c "$work/apt/apt.conf" -qq -y --download-only install pgbackrest patchelf >&2
		for deb in "$work"/apt/cache/archives/*.deb; do
			case ${deb##*/} in
			lib* | zlib1g_* | patchelf_* | pgbackrest_*) dpkg-deb -x "$deb" "$work/root" ;;
			esac
		done
		mkdir -p "$work/prefix/bin" "$work/prefix/lib"
		mv "$work/root/usr/bin/pgbackrest" "$work/prefix/bin/"
		collect_libraries "$work/root" "$work/prefix"
		bind_programs "$work/root" "$work/prefix" "$prefix"
		chmod -R a+rX "$work/prefix"
		rm -rf "$prefix"
		mv "$work/prefix" "$prefix"
		"$prefix/bin/pgbackrest" version >"$prefix/installed" || die "pgBackRest does not run here"
	fi
	echo "$prefix/bin/pgbackrest"
}

main "$@"
