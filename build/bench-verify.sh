#!/usr/bin/env bash
# Measures basin verifybackup beside the stock pg_verifybackup of PostgreSQL 18.
#
#	build/bench-verify.sh BASIN [CASE...]
#
# CASE is a name from the table below; without any, all run. Only a whole run, of all
# cases, at full size and with five pairs or more, writes docs/benchmarks-verify.md;
# others print what would be there.
#
#	BASIN_BENCH_PAIRS=N   pairs of runs a case, 5
#	BASIN_BENCH_SCALE=N   size of the cluster in MB, 2200; it takes three times that in
#	                      /dev/shm or, where there is no room, below TMPDIR
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly port=5432      # of a socket in a folder of our own
readonly whole=(5 2200) # pairs and scale of a whole run

# Name of each case, the part of stock's time that ours may take, and how the backup is
# made. Stock cannot read the log in tar files, so that there neither does.
readonly comparisons='plain|0.60|-Fp
plain-sha256|0.60|-Fp --manifest-checksums=SHA256
tar|0.60|-Ft
tar-zstd|0.60|-Ft -Z zstd'

# fill makes the cluster, as fast as can be, and leaves it running.
fill() {
	doing="making a cluster of $scale MB"
	say "$doing"
	{
		make_cluster "$work/data" 'fsync = off' 'full_page_writes = off' 'autovacuum = off' 'shared_buffers = 512MB' \
			'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'wal_level = replica' 'max_wal_senders = 10'
		start "$work/data" $port
		load $port $((scale * 780))
	} >"$log" 2>&1
}

# check CASE WHOSE OPTION... verifies the backup, and leaves the sample in $work/last.
check() {
	local name=$1 whose=$2 command=("$bin/pg_verifybackup")
	shift 2
	if [ "$whose" = ours ]; then command=("$work/basin" verifybackup); fi
	doing="$name, $whose"
	sampling "$name" "$whose" ''
	"${measured[@]}" "${command[@]}" -q "$@" "$work/backup" >"$work/last" 2>"$log"
	tell
}

# compare CASE OPTION... makes a backup, warms both programs up, and runs them by turns.
compare() {
	local name=$1 options=()
	shift
	doing="$name, the backup"
	rm -rf -- "$work/backup"
	"${as[@]}" "$work/basin" basebackup -p $port -D "$work/backup" -c fast -N "$@" >"$log" 2>&1
	if [ ! -f "$work/backup/PG_VERSION" ]; then options=(-n); fi
	say "$name, to warm up"
	check "$name" stock ${options[@]+"${options[@]}"}
	check "$name" ours ${options[@]+"${options[@]}"}
	by_turns "$pairs" check "$name" ${options[@]+"${options[@]}"}
}

# page prints docs/benchmarks-verify.md.
page() {
	cat <<-END
		# Benchmarks of verifybackup

		\`basin verifybackup\` beside PostgreSQL's own \`pg_verifybackup\`. This page is written by
		\`make bench\`; change [bench-verify.sh](../build/bench-verify.sh), not the page.

		$(facts pg_verifybackup)
		| in memory | $(filesystem "$work") |

		A cluster of $size, backed up once for each case with the options in the table, and verified by
		both programs in turns; before the runs that count, one of each warms up. Plain backups are verified
		with their log, tar files without, which stock cannot read there. A ratio is the median of the ratios
		of the pairs, basin's to stock's, with the least and the most. Memory is the peak of all processes of
		a program together.

		$(cat "$work/report")
	END
}

main() {
	accept "${whole[@]}" "$(cut -d '|' -f 1 <<<"$comparisons" | paste -s -d ' ')" "$@"
	install_postgres 18
	open_work basin-bench "$(place $((3 * scale + 1500)))"
	prepare pg_verifybackup pg_waldump
	fill
	size=$(du -s --apparent-size -B 100000000 "$work/data/base" | awk '{ printf "%.1f GB", $1 / 10 }')
	say "cluster of $size"
	compare_all
	publish benchmarks-verify.md "${whole[@]}"
	doing=''
}

main "$@"
