#!/usr/bin/env bash
# Verifies a backup of a million files, with basin verifybackup and the stock
# pg_verifybackup, and prints what each took. More than 96 MiB of basin's is a failure.
#
#	build/million.sh BASIN
#
# The files are empty. They are in /dev/shm or, where there is no room, below TMPDIR, and
# take 1.5 GB there.
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly most=96 # MiB

main() {
	accept 1 1 million "$@"
	install_postgres 18
	open_work basin-million "$(place 2000)"
	prepare pg_verifybackup
	doing="making a million files"
	say "$doing"
	"${as[@]}" "$work/bench" million "$work/backup" >"$log" 2>&1
	doing="verifying them"
	for whose in stock ours; do
		local command=("$bin/pg_verifybackup")
		if [ "$whose" = ours ]; then command=("$work/basin" verifybackup); fi
		sampling million "$whose" ''
		"${measured[@]}" "${command[@]}" -q -n "$work/backup" >"$work/last" 2>"$log"
		tell
	done
	awk -F '\t' -v most=$most '{ exit $5 > most * 1048576 }' "$work/last" || die "that is more than $most MiB"
	doing=''
}

main "$@"
