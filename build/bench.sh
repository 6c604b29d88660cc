#!/usr/bin/env bash
# Measures basin basebackup beside the stock pg_basebackup of PostgreSQL 18.
#
#	build/bench.sh BASIN [CASE...]
#
# CASE is a name from the table below; without any, all run. Only a whole run, of all
# cases, at full size and with five pairs or more, writes docs/benchmarks.md; others
# print what would be there.
#
#	BASIN_BENCH_PAIRS=N   pairs of runs a case, 5
#	BASIN_BENCH_SCALE=N   size of the cluster in MB, 2200; it takes three times that in
#	                      /dev/shm or, where there is no room, below TMPDIR
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly port=5432 # of a socket in a folder of our own
readonly whole=(5 2200) # pairs and scale of a whole run
readonly common=(-c fast -X stream)

# Name, target and options of each case. The target of the first six is the part of
# stock's time that ours may take; a ratio at or below it is a target met.
readonly comparisons='plain|0.85|-Fp
tar|0.85|-Ft
gzip|0.17|-Ft --compress=client-gzip:6
zstd|1.15|-Ft --compress=client-zstd:level=3,workers=2
lz4|0.70|-Ft --compress=client-lz4
server-zstd|1.00|-Fp --compress=server-zstd'
# That of the others is what ours may need of memory at ten times the size.
readonly memory_target=1.10
readonly memories='memory-tar|
memory-gzip|--compress=client-gzip:6
memory-zstd|--compress=client-zstd:level=3,workers=2
memory-lz4|--compress=client-lz4'

# fill makes the cluster, as fast as can be, and leaves it running as it is measured.
fill() {
	doing="making a cluster of $scale MB"
	say "$doing"
	{
		make_cluster "$work/data" 'fsync = off' 'full_page_writes = off' 'autovacuum = off' 'shared_buffers = 512MB' \
			'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'wal_level = minimal' 'max_wal_senders = 0'
		start "$work/data" $port
		load $port $((scale * 780))
		stop "$work/data"
		configure "$work/data" 'full_page_writes = on' 'wal_level = replica' 'max_wal_senders = 10'
		start "$work/data" $port
	} >"$log" 2>&1
}

# remove empties a folder that a program made.
remove() {
	rm -rf -- "$1"
}

# take CASE WHOSE OUTPUT OPTION... takes a backup and leaves its sample in $work/last,
# and the backup in OUTPUT, unless that is - for /dev/null.
take() {
	local name=$1 whose=$2 output=$3 command=("$bin/pg_basebackup") folder=''
	shift 3
	if [ "$whose" = ours ]; then command=("$work/basin" basebackup); fi
	if [ "$output" != - ]; then
		remove "$output"
		folder=$output
	fi
	doing="$name, $whose"
	sql $port CHECKPOINT >"$log" 2>&1
	sampling "$name" "$whose" "$folder"
	"${measured[@]}" "${command[@]}" -p $port -D "$output" "$@" >"$work/last" 2>"$log"
	tell
}

# verify CASE checks what ours has just made with the stock pg_verifybackup. It
# cannot read the log in tar files.
verify() {
	local options=()
	doing="$1, pg_verifybackup"
	if [ ! -f "$work/output/PG_VERSION" ]; then options=(--no-parse-wal); fi
	"${as[@]}" "$bin/pg_verifybackup" ${options[@]+"${options[@]}"} "$work/output" >"$log" 2>&1
	say "  $1: pg_verifybackup accepts what basin made"
}

# compare CASE OPTION... warms both programs up, and runs them by turns.
compare() {
	local name=$1
	shift
	say "$name, to warm up"
	take "$name" stock "$work/output" "${common[@]}" "$@"
	take "$name" ours "$work/output" "${common[@]}" "$@"
	verify "$name"
	by_turns "$pairs" take "$name" "$work/output" "${common[@]}" "$@"
	remove "$work/output"
}

# grow makes the cluster ten times as large without taking room: an empty table gets
# segments that are links to the largest file there is. The pages in them carry another
# segment's checksums, so that these are not to be checked.
grow() {
	local largest size path i count
	doing="growing the cluster tenfold"
	say "$doing"
	sql $port 'CREATE TABLE padding ()' >"$log" 2>&1
	path=$work/data/$(sql $port "SELECT pg_relation_filepath('padding')")
	read -r size largest < <(find "$work/data/base" -type f -printf '%s %p\n' | sort -n | tail -n 1)
	count=$((9 * $(du -s --apparent-size -B 1 "$work/data/base" | cut -f 1) / size))
	for ((i = 1; i <= count; i++)); do ln -- "$largest" "$path.$i"; done
}

# cluster_size prints what a backup of the cluster has to carry.
cluster_size() {
	du -s -l --apparent-size -B 100000000 "$work/data/base" | awk '{ printf "%.1f GB", $1 / 10 }'
}

# measure_memory RUNS runs the cases of memory so often at the size that the cluster now has.
measure_memory() {
	local runs=$1 name options size i
	size=$(cluster_size)
	while IFS='|' read -r name options <&3; do
		wanted "$name" || continue
		for ((i = 0; i < runs; i++)); do
			# shellcheck disable=SC2086 # no option or one
			take "$name@$size" ours - -c fast -X fetch -Ft --no-verify-checksums $options
			cat "$work/last" >>"$work/samples"
		done
		printf '%s@%s\t%s\t%s\n' "$name" "$size" "$memory_target" "$options" >>"$work/memory-cases"
	done 3<<<"$memories"
}

# page prints docs/benchmarks.md.
page() {
	cat <<-END
		# Benchmarks

		\`basin basebackup\` beside PostgreSQL's own \`pg_basebackup\`. This page is written by
		\`make bench\`; change [bench.sh](../build/bench.sh), not the page.

		$(facts pg_basebackup)
		| cluster | $small, of which indexes $indexes %, page checksums on |
		| cluster and backups are on | $(filesystem "$work") |

		## Method

		One server, one Unix socket, the same options for both programs and their defaults for
		all others (\`fsync\` among them): \`${common[*]}\` and

		$(awk -F '|' '{ print "- **" $1 "**: `" $3 "`" }' <<<"$comparisons")

		The cluster holds [event tables](../build/bench.sql) with tokens, JSON documents, times and texts
		of varied entropy, with B-tree and GIN indexes. Each case begins with a run of each program that
		does not count; of what it left, basin's is checked with the stock \`pg_verifybackup\`. Then the
		programs run by turns, stock, basin, stock, basin, $pairs pairs, each after a checkpoint and into an empty
		folder. A column holds medians; the ratio is the median of the ratios of the pairs, with the
		smallest and the largest.

		CPU is user and system time of the program and its children, without the server's. Memory is
		the peak resident memory (\`VmHWM\`, looked at every 10 ms) of the largest process; stock's forks a
		child for the log, and "all" is the sum of both peaks, in which what they share counts twice.
		MB and GB are powers of ten.

		$(cat "$work/report")
	END
	if [ -s "$work/memory-cases" ]; then
		cat <<-END

			Here basin alone writes one tar file to \`/dev/null\` with \`-Ft -X fetch -D -\`: three times, of
			which this is the median, and once of the larger cluster. That is the smaller one and nine times
			its size in links to its largest file, which the server reads like any other.
		END
	fi
}

main() {
	local name options
	accept "${whole[@]}" "$(cut -d '|' -f 1 <<<"$comparisons"$'\n'"$memories" | paste -s -d ' ')" "$@"
	install_postgres 18
	open_work basin-bench "$(place $((3 * scale + 1500)))"
	prepare pg_basebackup pg_verifybackup
	: >"$work/memory-cases"
	fill
	small=$(cluster_size)
	indexes=$(sql $port "SELECT round(100 * sum(pg_indexes_size(oid)) / sum(pg_total_relation_size(oid)))
		FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
	say "cluster of $small, $indexes % of it indexes"

	while IFS='|' read -r name _ options <&3; do
		# shellcheck disable=SC2086 # options are several
		if wanted "$name"; then compare "$name" $options; fi
	done 3<<<"$comparisons"
	if ((${#chosen[@]} == 0)) || [[ ${chosen[*]} == *memory-* ]]; then
		say "memory, at $small"
		measure_memory 3
		grow
		say "memory, at $(cluster_size)"
		measure_memory 1
	fi

	doing="the report"
	{
		tr '|' '\t' <<<"$comparisons"
		sort -t @ -k 1,1 -s "$work/memory-cases" # the small before the large of each
	} >"$work/cases"
	"$work/bench" report "$work/cases" <"$work/samples" >"$work/report" 2>"$log"
	publish benchmarks.md "${whole[@]}"
	doing=''
}

main "$@"
