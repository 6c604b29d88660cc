#!/usr/bin/env bash
# Measures basin combinebackup beside the stock pg_combinebackup of PostgreSQL 18.
#
#	build/bench-combine.sh BASIN [CASE...]
#
# CASE is a name from the table below; without any, all run. Only a whole run, of all
# cases, at full size and with five pairs or more, writes docs/benchmarks-combine.md;
# others print what would be there.
#
#	BASIN_BENCH_PAIRS=N   pairs of runs a case, 5
#	BASIN_BENCH_SCALE=N   size of the cluster in MB, 1500; it takes four times that in
#	                      /dev/shm or, where there is no room, below TMPDIR
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly port=5432      # of a socket in a folder of our own
readonly whole=(5 1500) # pairs and scale of a whole run

# Name of each case, the part of stock's time that ours may take, and the options.
readonly comparisons='copy|1.00|--copy
copy-file-range|0.80|--copy-file-range
sha256|1.00|--copy --manifest-checksums=SHA256
no-verify|1.00|--copy'

# fill makes the cluster, as fast as can be, and a chain of a full backup and three
# incremental ones, between which one row of 30 is changed, in runs.
fill() {
	local i previous=()
	doing="making a cluster of $scale MB and its backups"
	say "$doing"
	{
		make_cluster "$work/data" 'fsync = off' 'full_page_writes = off' 'autovacuum = off' 'shared_buffers = 512MB' \
			'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'wal_level = replica' 'max_wal_senders = 10' \
			'summarize_wal = on'
		start "$work/data" $port
		load $port $((scale * 780))
		for i in 0 1 2 3; do
			"${as[@]}" "$work/basin" basebackup -p $port -D "$work/$i" -c fast -N "${previous[@]+"${previous[@]}"}"
			previous=(-i "$work/$i/backup_manifest")
			change "$i"
		done
	} >"$log" 2>&1
}

# change N changes a part of every large table.
change() {
	local table
	for table in $("${as[@]}" "$bin/psql" -p $port -X -q -A -t -d postgres -c \
		"SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"); do
		"${as[@]}" "$bin/psql" -p $port -X -q -v ON_ERROR_STOP=1 -d postgres -c \
			"DELETE FROM $table WHERE (ctid::text::point)[0]::bigint % 600 BETWEEN 40 * $1 AND 40 * $1 + 19"
	done
}

# combine CASE WHOSE OPTION... combines the chain, and leaves the sample in $work/last.
combine() {
	local name=$1 whose=$2 command=("$bin/pg_combinebackup")
	shift 2
	if [ "$whose" = ours ]; then
		command=("$work/basin" combinebackup)
		if [ "$name" = no-verify ]; then command+=(--no-verify); fi
	fi
	doing="$name, $whose"
	rm -rf -- "$work/out"
	sampling "$name" "$whose" ''
	"${measured[@]}" "${command[@]}" -N -o "$work/out" "$@" "$work/0" "$work/1" "$work/2" "$work/3" >"$work/last" 2>"$log"
	tell
}

# compare CASE OPTION... warms both programs up, and runs them by turns.
compare() {
	local name=$1
	say "$name, to warm up"
	combine "$name" stock "${@:2}"
	combine "$name" ours "${@:2}"
	by_turns "$pairs" combine "$name" "${@:2}"
}

# page prints docs/benchmarks-combine.md.
page() {
	cat <<-END
		# Benchmarks of combinebackup

		\`basin combinebackup\` beside PostgreSQL's own \`pg_combinebackup\`. This page is written by
		\`make bench\`; change [bench-combine.sh](../build/bench-combine.sh), not the page.

		$(facts pg_combinebackup)
		| in memory | $(filesystem "$work") |

		A full backup of a cluster of $size, and three incremental ones, each with one page of 30 ($sizes);
		nothing is synced. Ours compares all that it reads with the manifests of the backups, but for
		the case no-verify; stock never does. Both run in turns; before the runs that count, one of each warms up. A
		ratio is the median of the ratios of the pairs, basin's to stock's, with the least and the most. Memory
		is the peak of all processes of a program together.

		$(cat "$work/report")
	END
}

# megabytes DIR prints how large a folder is.
megabytes() {
	du -s --apparent-size -B 1000000 "$1" | awk '{ print $1 " MB" }'
}

main() {
	accept "${whole[@]}" "$(cut -d '|' -f 1 <<<"$comparisons" | paste -s -d ' ')" "$@"
	install_postgres 18
	open_work basin-bench "$(place $((4 * scale + 1500)))"
	prepare pg_combinebackup
	fill
	size=$(megabytes "$work/0/base")
	sizes="$(megabytes "$work/1/base"), $(megabytes "$work/2/base"), $(megabytes "$work/3/base")"
	say "cluster of $size, and $sizes"
	compare_all
	publish benchmarks-combine.md "${whole[@]}"
	doing=''
}

main "$@"
