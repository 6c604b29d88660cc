#!/usr/bin/env bash
# Measures basin receivewal beside the stock pg_receivewal of PostgreSQL 18.
#
#	build/bench-log.sh BASIN [CASE...]
#
# CASE is a name from the tables below; without any, all run. Only a whole run, of all
# cases, at full size and with seven pairs or more, writes docs/benchmarks-log.md; others
# print what would be there. A whole run takes ten minutes, on a machine with nothing else to do.
#
#	BASIN_BENCH_PAIRS=N   pairs of runs a case, 7
#	BASIN_BENCH_SCALE=N   size of a cluster in MB, 1100, which is about that of its log; it
#	                      takes four times that in /dev/shm or, where there is no room,
#	                      below TMPDIR. Loads last in proportion to it.
#	BASIN_BENCH_DISK=DIR  a folder on a disk, for what waits for one: TMPDIR or /var/tmp;
#	                      it takes 1 GB there
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly whole=(7 1100)        # pairs and scale of a whole run
readonly memory=5432 disk=5433 # ports of sockets in a folder of our own
readonly segment=$((16 << 20)) # bytes
readonly rate_target=0.95      # of stock's rate that ours has at least
readonly time_target=1.05      # of stock's time that ours takes at most
readonly memory_target=48      # MiB

# Receiving what is there: name, which part of the log, how many times the pairs, and the
# methods of stock and of ours. What is short is run more often.
readonly bulks='bulk-none|1|2|none|none
bulk-gzip|8|1|gzip:6|gzip:6
bulk-lz4|1|1|lz4|lz4
bulk-zstd|4|1|lz4|zstd'
# Following what is being written: name and method.
readonly loads='load-none|none
load-lz4|lz4'
# Being waited for: name, how many times the pairs, synchronous_commit, and clients.
readonly commits='commit-on-1|2|on|1
commit-on-8|2|on|8
commit-remote_write-1|1|remote_write|1
commit-remote_write-8|1|remote_write|8'

receive=()  # words of the command of one
receiver='' # process of the one beside a load

# disk_place prints the folder for what is to be on a disk.
disk_place() {
	local base
	for base in "${BASIN_BENCH_DISK:-}" "${TMPDIR:-}" /var/tmp; do
		[ -n "$base" ] || continue
		# Not only root must get there.
		if [ -d "$base" ] && [[ $(filesystem "$base") != *ramfs && $(filesystem "$base") != tmpfs ]] && "${as[@]}" test -x "$base"; then
			realpath -- "$base"
			return
		fi
		[ "$base" != "${BASIN_BENCH_DISK:-}" ] || die "$base: not a folder on a disk that anyone may enter"
	done
	die "no folder on a disk; set BASIN_BENCH_DISK to one"
}

# duration PER prints the seconds that a load lasts if it is PER at the scale of a whole
# run: two at least, because to connect is part of it.
duration() {
	local seconds=$(($1 * scale / whole[1]))
	echo $((seconds > 2 ? seconds : 2))
}

# receiving WHOSE FOLDER PORT sets receive to a receiver into an empty folder.
receiving() {
	receive=("$bin/pg_receivewal")
	if [ "$1" = ours ]; then receive=("$work/basin" receivewal); fi
	receive+=(-D "$2" -p "$3" -n)
	rm -rf -- "$2"
	"${as[@]}" mkdir "$2"
}

# await COMMAND... polls until a command succeeds, which it must within half a minute.
await() {
	local end=$((SECONDS + 30))
	until "$@"; do
		if ((SECONDS >= end)) || { [ -n "$receiver" ] && ! kill -0 "$receiver" 2>/dev/null; }; then
			{ echo "waited in vain: $*" && cat "$work/receiver.log"; } >>"$log"
			return 1
		fi
		sleep 0.01
	done
}

# fill_memory makes the cluster whose log is caught up with, and leaves all of that there.
fill_memory() {
	doing="making a cluster of $scale MB with its log"
	say "$doing"
	{
		make_cluster "$work/data" 'fsync = off' 'autovacuum = off' 'shared_buffers = 256MB' \
			'max_wal_size = 8GB' 'checkpoint_timeout = 1h'
		start "$work/data" $memory
		first=$(sql $memory "SELECT lsn FROM pg_create_physical_replication_slot('whole', true)")
		load $memory $((scale * 780))
		segments=$(sql $memory "SELECT div(pg_current_wal_lsn() - '0/0', $segment) - div('$first'::pg_lsn - '0/0', $segment)")
		"${as[@]}" "$bin/pgbench" -p $memory -i -q -s 10 # so that there is more behind them
		sql $memory CHECKPOINT
	} >"$log" 2>&1
}

# catch_up CASE WHOSE COUNT STOCKS OURS has one receive COUNT segments that are there, by
# a slot that stands where they begin. STOCKS and OURS are the methods of compression.
catch_up() {
	local name=$1 whose=$2 count=$3 method=$4 end got
	if [ "$whose" = ours ]; then method=$5; fi
	doing="$name, $whose"
	# It ends when there is more than that.
	end=$(sql $memory "SELECT '0/0'::pg_lsn + (div('$first'::pg_lsn - '0/0', $segment) + $count) * $segment - 1")
	receiving "$whose" "$work/received" $memory
	sql $memory "SELECT pg_copy_physical_replication_slot('whole', 'part')" >"$log" 2>&1
	sampling "$name" "$whose" "$work/received"
	"${measured[@]}" "${receive[@]}" -S part -E "$end" -Z "$method" >"$work/last" 2>"$log"
	tell
	got=$(find "$work/received" -type f ! -name '*.partial' | wc -l)
	if ((got != count)); then
		echo "$got segments are complete, not $count" >"$log"
		return 1
	fi
	await sql $memory "SELECT pg_drop_replication_slot('part')" >"$log" 2>&1
}

# verify CASE compares what ours has just received with what the server has.
verify() {
	local path name
	doing="$1, comparing segments"
	for path in "$work/received"/*; do
		name=${path##*/}
		case $name in
		*.gz) gzip -d -c "$path" ;;
		*.lz4) lz4 -d -c "$path" ;;
		*.zst) zstd -d -q -c "$path" ;;
		*) cat "$path" ;;
		esac | cmp - "$work/data/pg_wal/${name%%.*}"
	done >"$log" 2>&1
	say "  $1: what basin made is the server's log"
}

# compare_bulk CASE PART TIMES STOCKS OURS warms both programs up, and runs them by turns.
compare_bulk() {
	local name=$1 count=$((segments / $2)) times=$3 target=0
	shift 3
	count=$((count > 0 ? count : 1))
	if [ "$1" = "$2" ]; then target=$rate_target; fi
	say "$name, $count segments, to warm up"
	catch_up "$name" stock $count "$@"
	catch_up "$name" ours $count "$@"
	verify "$name"
	by_turns $((pairs * times)) catch_up "$name" $count "$@"
	printf 'bulk\t%s\t%s\t%s\n' "${name#bulk-}" $target $((count * segment)) >>"$work/cases"
}

# attach CASE WHOSE FOLDER PORT STATE OPTION... starts a receiver beside what follows, and
# waits until the server has it in a state.
attach() {
	local name=$1 whose=$2 folder=$3 port=$4 state=$5
	shift 5
	receiving "$whose" "$folder" "$port"
	sampling "$name" "$whose" "$folder"
	measured+=(-every 100ms) # it shares the processors with what it is to be as fast as
	"${measured[@]}" "${receive[@]}" "$@" >"$work/receiver" 2>"$work/receiver.log" &
	receiver=$!
	children+=("$receiver")
	await is_attached "$port" "$state"
}

is_attached() {
	[ "$(sql "$1" "SELECT count(*) FROM pg_stat_replication WHERE '$2' IN (state, sync_state)")" = 1 ]
}

# detach ends the receiver as one is ended, which it must obey within half a minute.
detach() {
	local end=$((SECONDS + 30))
	kill -TERM "$receiver"
	while kill -0 "$receiver" 2>/dev/null; do
		if ((SECONDS >= end)); then
			echo "it does not end" >"$log"
			return 1
		fi
		sleep 0.01
	done
	wait "$receiver" || { cat "$work/receiver.log" >"$log" && return 1; }
	receiver='' children=()
}

# has_segment FOLDER NAME tells whether a segment has been received as a whole.
has_segment() {
	[ -e "$1/$2" ] || [ -e "$1/$2.gz" ] || [ -e "$1/$2.lz4" ] || [ -e "$1/$2.zst" ]
}

# write SECONDS OPTION... runs pgbench, and leaves a log of its transactions.
write() {
	local seconds=$1
	shift
	rm -f -- "$work"/transactions.*
	# A commit that waits for a receiver that has ended would wait forever.
	"${as[@]}" timeout $((seconds + 60)) "$bin/pgbench" -T "$seconds" -M prepared \
		-l --log-prefix="$work/transactions" "$@" >"$log" 2>&1
}

# noted OPTION... puts what a receiver took and the load beside it into one sample.
noted() {
	"$work/bench" load "$@" "$work"/transactions.* >"$work/load" 2>"$log"
	paste "$work/receiver" "$work/load" >"$work/last"
	tell
}

# follow CASE WHOSE METHOD SECONDS has one follow what pgbench writes as fast as it can.
follow() {
	local name=$1 whose=$2 method=$3 seconds=$4 before ended written last
	doing="$name, $whose"
	sql $memory CHECKPOINT >"$log" 2>&1
	attach "$name" "$whose" "$work/received" $memory streaming -Z "$method"
	before=$(sql $memory 'SELECT pg_current_wal_lsn()')
	write "$seconds" -p $memory -c 8 -j 2
	ended=$(now)
	IFS='|' read -r written last < <(sql $memory "SELECT pg_current_wal_lsn() - '$before', pg_walfile_name(pg_switch_wal() - 1)")
	await has_segment "$work/received" "$last"
	ended=$(($(now) - ended))
	detach
	noted -log "$written" -behind "$ended"
}

# compare_load CASE METHOD runs both programs by turns.
compare_load() {
	local name=$1 method=$2 seconds
	seconds=$(duration 5)
	by_turns "$pairs" follow "$name" "$method" "$seconds"
	printf 'load\t%s\t%s\t0\n' "${name#load-}" $rate_target >>"$work/cases"
}

# fill_disk makes the cluster whose commits wait for a receiver.
fill_disk() {
	doing="making a cluster on a disk"
	say "$doing"
	{
		make_cluster "$slow/data" 'autovacuum = off' 'max_wal_size = 4GB' 'checkpoint_timeout = 1h'
		start "$slow/data" $disk
		sql $disk 'CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, note text)'
		configure "$slow/data" "synchronous_standby_names = '*'"
		"${as[@]}" "$bin/pg_ctl" reload -D "$slow/data" -s
	} >"$log" 2>&1
	cat >"$work/insert.sql" <<-'END'
		INSERT INTO notes (at, note) VALUES (now(), 'What a small transaction writes, about a hundred bytes of a row and as many around it.')
	END
}

# commit CASE WHOSE SYNCHRONOUS_COMMIT CLIENTS SECONDS has small transactions wait for one.
commit() {
	local name=$1 whose=$2 level=$3 clients=$4 seconds=$5
	doing="$name, $whose"
	sql $disk CHECKPOINT >"$log" 2>&1
	attach "$name" "$whose" "$slow/received" $disk sync --synchronous
	sync -f "$slow" # what others left to write is not to be waited for
	PGOPTIONS="-c synchronous_commit=$level" write "$seconds" -p $disk -n -c "$clients" -j $((clients < 2 ? 1 : 2)) -f "$work/insert.sql"
	detach
	noted
}

# compare_commit CASE TIMES SYNCHRONOUS_COMMIT CLIENTS runs both programs by turns.
compare_commit() {
	local name=$1 times=$2 seconds
	shift 2
	seconds=$(duration 2)
	by_turns $((pairs * times)) commit "$name" "$@" "$seconds"
	printf 'commit\t%s\t%s\t0\n' "${name#commit-}" $time_target >>"$work/cases"
}

# any_wanted TABLE tells whether a case of a table was asked for.
any_wanted() {
	local name
	while IFS='|' read -r name _; do
		if wanted "$name"; then return 0; fi
	done <<<"$1"
	return 1
}

# each TABLE COMMAND runs COMMAND with the fields of each case that was asked for.
each() {
	local fields
	while IFS='|' read -r -a fields <&3; do
		if wanted "${fields[0]}"; then "$2" "${fields[@]}"; fi
	done 3<<<"$1"
}

# page prints docs/benchmarks-log.md.
page() {
	cat <<-END
		# Benchmarks of the log

		\`basin receivewal\` beside PostgreSQL's own \`pg_receivewal\`. This page is written by
		\`make bench\`; change [bench-log.sh](../build/bench-log.sh), not the page.

		$(facts pg_receivewal)
		| in memory | $(filesystem "$work"): catching up, and beside a load |
		| on a disk | $(filesystem "$slow"): commits |

		## Method

		One server for each part, a Unix socket, the same options for both programs and their defaults
		for all others. The programs run by turns, stock, basin, stock, basin, each into an empty folder. A
		column holds medians. A ratio is the median of the ratios of the pairs, basin's to stock's, with
		an interval that the median of ever so many pairs lies in with the confidence that the table gives
		beside the number of pairs, at least 95 % from six pairs on. It is made of the ratios themselves
		and supposes nothing of how they are distributed. A target is met if that bound of the interval
		meets it that is worse for basin.

		**Catching up**: the log of [loading event tables](../build/bench.sql) and indexing them is there;
		a slot stands where it begins, and a receiver fetches it up to \`--endpos\`. Before the runs that
		count, one of each program warms up, and what basin received is compared with the server's. The
		time is that of the process. With **zstd**, which stock does not have, stock runs beside it
		with lz4.

		**Beside a load**: \`pgbench -c 8\` writes for $(duration 5) s, on the same cores, while a receiver
		follows. *Behind* is the time from the last transaction until the receiver has all of the log,
		in complete segments, the command that completes the last included.

		**Commits**: the receiver is the only synchronous standby, with \`--synchronous\`; the server's
		folder and the receiver's are on the same disk. For $(duration 2) s, 1 or 8 clients insert a row a transaction, with
		\`synchronous_commit\` \`on\`, when the server waits until the receiver has it on disk, or
		\`remote_write\`, when it waits until the receiver has written it. The times are those of pgbench's log
		of all transactions.

		CPU is user and system time of the receiver. Memory is the largest of the peaks (\`VmHWM\`, looked
		at every 10 ms, beside a load every 100 ms) of all its runs. MB are powers of ten, MiB of two.

		$(cat "$work/report")
	END
}

main() {
	local names base
	names=$(cut -d '|' -f 1 <<<"$bulks"$'\n'"$loads"$'\n'"$commits" | paste -s -d ' ')
	accept "${whole[@]}" "$names" "$@"
	install_postgres 18
	"$here/tools.sh" # lz4 and zstd
	open_work basin-bench "$(place $((4 * scale + 1500)))"
	base=$(disk_place)
	open_folder basin-bench "$base"
	slow=$folder
	prepare pg_receivewal pgbench
	: >"$work/cases"
	: >"$work/receiver.log"
	if any_wanted "$bulks"$'\n'"$loads"; then
		fill_memory
		say "log of $segments segments"
		each "$bulks" compare_bulk
		sql $memory "SELECT pg_drop_replication_slot('whole')" >"$log" 2>&1
		each "$loads" compare_load
		stop "$work/data"
	fi
	if any_wanted "$commits"; then
		fill_disk
		each "$commits" compare_commit
	fi
	doing="the report"
	"$work/bench" log -memory $memory_target "$work/cases" <"$work/samples" >"$work/report" 2>"$log"
	publish benchmarks-log.md "${whole[@]}"
	doing=''
}

main "$@"
