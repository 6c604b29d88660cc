#!/usr/bin/env bash
# Verifies a backup of a million files, with basin verifybackup and the stock
# pg_verifybackup, and makes another of it, with basin combinebackup and the stock
# pg_combinebackup, and prints what each took. More than 96 MiB of basin's is a failure.
#
#	build/million.sh BASIN
#
# The files are empty. They are in /dev/shm or, where there is no room, below TMPDIR, and
# take 3 GB there.
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly most=96 # MiB

main() {
	accept 1 1 million "$@"
	install_postgres 18
	open_work basin-million "$(place 3500)"
	prepare pg_verifybackup pg_combinebackup
	doing="making a million files"
	say "$doing"
	"${as[@]}" "$work/bench" million "$work/backup" >"$log" 2>&1
	measure verify verifybackup -q -n "$work/backup"
	measure combine combinebackup -N -o "$work/out" "$work/backup"
	doing=''
}

# measure CASE COMMAND OPTION... runs a command of both programs.
measure() {
	local whose command name=$1 program=$2
	shift 2
	for whose in stock ours; do
		doing="$name, $whose"
		rm -rf -- "$work/out"
		command=("$bin/pg_$program")
		if [ "$whose" = ours ]; then command=("$work/basin" "$program"); fi
		sampling "$name" "$whose" ''
		"${measured[@]}" "${command[@]}" "$@" >"$work/last" 2>"$log"
		tell
	done
	awk -F '\t' -v most=$most '{ exit $5 > most * 1048576 }' "$work/last" || die "that is more than $most MiB"
}

main "$@"
