#!/usr/bin/env bash
# Measures basin serve beside the walsender of the cluster that it serves, PostgreSQL 18.
#
#	build/bench-serve.sh BASIN [CASE...]
#
# CASE is a name from the table below; without any, all run. Only a whole run, of all
# cases, at full size and with seven pairs or more, writes docs/benchmarks-serve.md; others
# print what would be there.
#
#	BASIN_BENCH_PAIRS=N   pairs of runs a case, 7
#	BASIN_BENCH_SCALE=N   size of the cluster in MB, 2200; it takes four times that in
#	                      /dev/shm or, where there is no room, below TMPDIR
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly whole=(7 2200) # pairs and scale of a whole run
readonly rate=300       # transactions a second beside which lag is measured

# Name of each case, the part of the walsender's time that serve may take, and what the
# client is: bench discard, which drops what it gets, or a stock program.
readonly comparisons='discard|0.67|discard
plain|1.00|pg_basebackup -Fp -X stream
server-zstd|0.80|pg_basebackup -Ft -X fetch -Z server-zstd
server-zstd-2|0.80|pg_basebackup -Ft -X fetch -Z server-zstd:workers=2
four|0.90|four times pg_basebackup -Ft -X fetch -D -
log-discard|1.05|bench discard, of 1 GB of log
log|1.05|pg_receivewal without a slot, from 1 GB back
log-slot|1.05|pg_receivewal with a slot, from 1 GB back'

port=0 serve_port=0 serve=0

# fill makes the cluster and 1 GB of log behind it, and leaves it running.
fill() {
	doing="making a cluster of $scale MB"
	say "$doing"
	port=$(shuf -n 1 -i 20000-29999)
	{
		make_cluster "$work/data" 'fsync = off' 'autovacuum = off' 'shared_buffers = 512MB' "listen_addresses = '127.0.0.1'" \
			'max_wal_size = 16GB' 'checkpoint_timeout = 1h' 'wal_level = replica' 'max_wal_senders = 20' 'wal_keep_size = 16GB'
		start "$work/data" "$port"
		load "$port" $((scale * 780))
		sql "$port" 'CHECKPOINT'
	} >"$log" 2>&1
}

# start_serve starts basin serve, which is killed with the script.
start_serve() {
	doing="starting basin serve"
	echo 'host all,replication all 127.0.0.1/32 trust' >"$work/hba"
	"${as[@]}" "$work/basin" serve -w -d "host=$work port=$port user=postgres" -D "$work/data" -l 127.0.0.1:0 \
		--hba "$work/hba" >"$work/serve.log" 2>&1 &
	serve=$!
	children+=("$serve")
	for _ in $(seq 100); do
		serve_port=$(sed -nE 's/.*ready address=127\.0\.0\.1:([0-9]+).*/\1/p' "$work/serve.log")
		[ -z "$serve_port" ] || return 0
		sleep 0.1
	done
	die "basin serve does not answer: $(cat "$work/serve.log")"
}

# remember CASE notes how much memory serve has had at most, and starts another one.
remember() {
	local peak
	peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$serve/status")
	printf '| %s | %d MiB |\n' "$1" $((peak / 1024)) >>"$work/memory"
	kill "$serve"
	wait "$serve" || true
	children=()
	start_serve
}

# ask CASE WHOSE FROM runs the client of a case, and leaves the sample in $work/last.
ask() {
	local name=$1 whose=$2 at=$port reach
	if [ "$whose" = ours ]; then at=$serve_port; fi
	reach="host=127.0.0.1 port=$at user=postgres sslmode=disable"
	doing="$name, $whose"
	rm -rf -- "$work/output"
	sql "$port" CHECKPOINT >"$log" 2>&1
	sampling "$name" "$whose" ''
	case $name in
	discard) set -- "$work/bench" discard -d "$reach" \
		"BASE_BACKUP ( LABEL 'bench', CHECKPOINT 'fast', WAIT 0, MANIFEST 'yes', TARGET 'client')" ;;
	plain) set -- "$bin/pg_basebackup" -d "$reach" -c fast -N -D "$work/output" -Fp -X stream ;;
	server-zstd) set -- "$bin/pg_basebackup" -d "$reach" -c fast -N -D "$work/output" -Ft -X fetch -Z server-zstd ;;
	server-zstd-2) set -- "$bin/pg_basebackup" -d "$reach" -c fast -N -D "$work/output" -Ft -X fetch -Z server-zstd:workers=2 ;;
	four) set -- bash -c 'for i in 1 2 3 4; do "$0" -d "$1" -c fast -Ft -X fetch -D - >/dev/null & done; wait' "$bin/pg_basebackup" "$reach" ;;
	log-discard) set -- "$work/bench" discard -d "$reach" -until "$last" "START_REPLICATION $from TIMELINE 1" ;;
	log*)
		"${as[@]}" mkdir "$work/output"
		"${as[@]}" cp -- "$work/data/pg_wal/$first" "$work/output/"
		set -- "$bin/pg_receivewal" -d "$reach" -D "$work/output" --no-sync --no-loop --endpos "$last"
		if [ "$name" = log-slot ]; then set -- "$@" -S bench; fi
		;;
	esac
	"${measured[@]}" "$@" >"$work/last" 2>"$log"
	tell
}

# compare CASE warms both up, and runs them by turns.
compare() {
	local name=$1
	say "$name, to warm up"
	ask "$name" stock
	ask "$name" ours
	by_turns "$pairs" ask "$name"
	remember "$name"
}

# find_log sets first and from to a segment and where it begins, and last to a position 1 GB
# behind that.
find_log() {
	sql "$port" 'SELECT pg_switch_wal()' >"$log" 2>&1
	first=$(find "$work/data/pg_wal" -maxdepth 1 -name '0000*' -printf '%f\n' | sort | tail -n 66 | head -n 1)
	from=$(sql "$port" "SELECT '0/0'::pg_lsn + (x'${first:8:8}'::bigint::numeric * 4294967296 + x'${first:16:8}'::bigint * 16777216)")
	last=$(sql "$port" "SELECT '$from'::pg_lsn + 64 * 16777216::numeric")
	sql "$port" "SELECT pg_create_physical_replication_slot('bench', true)" >"$log" 2>&1
}

# standby DIR PORT AT starts a standby that is sent its log from AT.
standby() {
	"${as[@]}" "$bin/pg_basebackup" -p "$port" -D "$1" -c fast -X stream -N
	"${as[@]}" touch "$1/standby.signal"
	configure "$1" "primary_conninfo = 'host=127.0.0.1 port=$3 user=postgres sslmode=disable'" "listen_addresses = ''"
	start "$1" "$2"
}

# lags measures how long what is committed takes to be replayed by two standbys, one of each
# kind, which run side by side so that both have the same load beside them.
lags() {
	local i load
	doing="two standbys"
	"${as[@]}" "$bin/pgbench" -p "$port" -i -s 5 -q postgres >"$log" 2>&1
	standby "$work/stock" $((port + 1)) "$port" >"$log" 2>&1
	standby "$work/ours" $((port + 2)) "$serve_port" >"$log" 2>&1
	say "lag, $pairs times"
	for ((i = 0; i < pairs; i++)); do
		doing="lag"
		"${as[@]}" "$bin/pgbench" -p "$port" -n -c 2 -R $rate -T 12 -N postgres >"$work/pgbench.log" 2>&1 &
		load=$!
		"${as[@]}" "$work/bench" lag -primary "host=$work port=$port user=postgres dbname=postgres" -for 10s \
			"host=$work port=$((port + 1)) user=postgres dbname=postgres" \
			"host=$work port=$((port + 2)) user=postgres dbname=postgres" >"$work/last"
		wait "$load"
		say "  $(paste -s -d ' ' "$work/last")"
		paste <(printf 'stock\nours\n') "$work/last" >>"$work/lags"
	done
	stop "$work/stock" >"$log" 2>&1
	stop "$work/ours" >"$log" 2>&1
	remember lag
}

# lag_table prints the medians of the lags, and of the ratios of their pairs.
lag_table() {
	awk -F '\t' '
		function median(a, n,   i, j, t) {
			for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] < a[j-1]; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
			return n % 2 ? a[(n+1)/2] : (a[n/2] + a[n/2+1]) / 2
		}
		{ split($2, f, " "); n[$1]++; p50[$1, n[$1]] = f[2]; p99[$1, n[$1]] = f[4] }
		END {
			for (i = 1; i <= n["ours"]; i++) {
				a[i] = p50["stock", i]; b[i] = p50["ours", i]; r[i] = b[i] / a[i]
				c[i] = p99["stock", i]; d[i] = p99["ours", i]; s[i] = d[i] / c[i]
			}
			k = n["ours"]
			print "| lag | walsender | basin | ratio | target |"
			print "|---|---|---|---|---|"
			printf "| p50 | %.2f ms | %.2f ms | %.2f | 1.05 |\n", median(a, k), median(b, k), median(r, k)
			printf "| p99 | %.2f ms | %.2f ms | %.2f | 1.05 |\n", median(c, k), median(d, k), median(s, k)
		}' "$work/lags"
}

# large_manifest has an incremental backup made against a manifest of a million files more than
# there are, for what that takes of memory.
large_manifest() {
	local reach="host=127.0.0.1 port=$serve_port user=postgres sslmode=disable" large=$work/manifest
	doing="a manifest of a million files"
	say "$doing"
	{
		sql "$port" "ALTER SYSTEM SET summarize_wal = on"
		sql "$port" "SELECT pg_reload_conf()"
		rm -rf -- "$work/output"
		"${as[@]}" "$bin/pg_basebackup" -d "$reach" -c fast -N -D "$work/output" -X none
		awk '/"Manifest-Checksum"/ { next } { print }
			/^"Files": / {
				for (i = 0; i < 1000000; i++) {
					printf "{ \"Path\": \"base/4000000000/%d\", \"Size\": 8192, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", ", 100000 + i
					print "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" },"
				}
			}' "$work/output/backup_manifest" >"$large"
		printf '"Manifest-Checksum": "%s"}\n' "$(sha256sum "$large" | cut -d ' ' -f 1)" >>"$large"
		rm -rf -- "$work/output"
		"${as[@]}" "$bin/pg_basebackup" -d "$reach" -c fast -N -D "$work/output" -X none --incremental "$large"
	} >"$log" 2>&1
	remember 'incremental, against a manifest of a million files'
}

# page prints docs/benchmarks-serve.md.
page() {
	cat <<-END
		# Benchmarks of serve

		\`basin serve\` beside the walsender of the cluster that it serves. This page is written by
		\`make bench\`; change [bench-serve.sh](../build/bench-serve.sh), not the page.

		$(facts pg_basebackup)
		| cluster | $size, page checksums on |
		| cluster and backups are on | $(filesystem "$work") |

		The same client asks the one and the other by turns, over TCP on this machine, each after a
		checkpoint; stock is the walsender. Before the runs that count, one of each warms up. A ratio is the
		median of the ratios of the pairs, basin's to the walsender's, with the least and the most. CPU and
		memory in the table are the client's.

		$(awk -F '|' '{ print "- **" $1 "**: " $3 }' <<<"$comparisons")

		$(cat "$work/report")

		Memory of basin serve at most (\`VmHWM\`), after all runs of a case:

		| case | memory |
		|---|---|
		$(cat "$work/memory")

		How long what is flushed on the primary takes to be replayed by a standby, beside \`pgbench -N -c 2
		-R $rate\`: two standbys, one of each, run side by side and are looked at by turns, for ten seconds;
		medians of $pairs times:

		$(lag_table)
	END
}

main() {
	accept "${whole[@]}" "$(cut -d '|' -f 1 <<<"$comparisons" | paste -s -d ' ') lag manifest" "$@"
	install_postgres 18
	open_work basin-bench "$(place $((4 * scale + 4000)))"
	prepare pg_basebackup pg_receivewal pgbench
	: >"$work/memory"
	: >"$work/lags"
	fill
	size=$(du -s --apparent-size -B 100000000 "$work/data/base" | awk '{ printf "%.1f GB", $1 / 10 }')
	find_log
	start_serve
	if wanted lag; then lags; fi
	compare_all
	if wanted manifest; then large_manifest; fi
	publish benchmarks-serve.md "${whole[@]}"
}

main "$@"
