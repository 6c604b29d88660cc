#!/usr/bin/env bash
# Measures basin's repository beside pgBackRest's, on a cluster of PostgreSQL 18.
#
#	build/bench-repository.sh BASIN [CASE...]
#
# CASE is a name from the table below; without any, all run. Only a whole run, of all
# cases, at full size and with seven pairs or more, writes docs/benchmarks-repository.md and
# its picture; others print what would be there.
#
#	BASIN_BENCH_PAIRS=N     pairs of runs a case, 7; of recovery three at most
#	BASIN_BENCH_SCALE=N     size of the cluster in MB, 1000; it takes six times that in
#	                        /dev/shm or, where there is no room, below TMPDIR
#	BASIN_BENCH_SEGMENTS=N  segments of log that a recovery reads, 300
# shellcheck source-path=SCRIPTDIR source=measure.sh
. "$(dirname -- "$(realpath -- "$0")")/measure.sh"

readonly port=5432 restored=5433 # of sockets in a folder of our own
readonly whole=(7 1000)          # pairs and scale of a whole run
readonly jobs=2                  # processes or threads of each
readonly latency=30              # milliseconds of the store that recovery reads from
readonly chain=30                # backups before the last restore

# Name of each case, the part of pgBackRest's time that ours may take, and what it is.
readonly comparisons='first|0.80|a backup into an empty repository
next|0.30|a backup after 0.1 % of the rows changed; the server summarizes its log
next-scan|0.30|the same, where basin reads every page
restore|0.70|the restore of a backup, without its log
restore-30|0.70|the same, after thirty incremental backups
push|1.00|eight segments of log into the repository, one after the other
get|1.00|the same segments out of it
recovery|0.50|recovery of segments out of S3 that answers after 30 ms, both getting log ahead'

pgbackrest='' gateway='' segments=()

# configure_stock FILE REPOSITORY-LINE... writes a configuration of pgBackRest.
configure_stock() {
	local file=$1
	shift
	"${as[@]}" mkdir -p "$work/stock-run"
	cat >"$file" <<-END
		[global]
		$(printf '%s\n' "$@")
		repo1-bundle=y
		repo1-block=y
		repo1-retention-full=1
		compress-type=zst
		compress-level=3
		process-max=$jobs
		start-fast=y
		log-level-console=error
		log-level-file=off
		log-path=$work/stock-run
		lock-path=$work/stock-run
		spool-path=$work/stock-run
		[bench]
		pg1-path=$work/data
		pg1-port=$port
		pg1-socket-path=$work
		pg1-user=postgres
	END
}

# stock FILE COMMAND [OPTION...] sets command to one of pgBackRest.
stock() {
	local file=$1 what=$2
	shift 2
	command=("$pgbackrest" "--config=$file" --stanza=bench "$@" "$what")
}

# new_repository WHOSE FOLDER makes an empty repository.
new_repository() {
	rm -rf -- "$2"
	"${as[@]}" mkdir "$2"
	if [ "$1" = ours ]; then
		"${as[@]}" "$work/basin" init "$2"
		return
	fi
	configure_stock "$2.conf" "repo1-path=$2"
	stock "$2.conf" stanza-create --no-online
	"${as[@]}" "${command[@]}"
}

# fill makes the cluster, and leaves it running.
fill() {
	doing="making a cluster of $scale MB"
	say "$doing"
	{
		make_cluster "$work/data" 'fsync = off' 'autovacuum = off' 'shared_buffers = 512MB' 'max_wal_size = 8GB' \
			'checkpoint_timeout = 1h' 'wal_level = minimal' 'max_wal_senders = 0'
		start "$work/data" $port
		load $port $((scale * 780))
		stop "$work/data"
		configure "$work/data" 'wal_level = replica' 'summarize_wal = on' 'max_wal_senders = 10' 'wal_keep_size = 2GB' 'archive_mode = on' \
			"archive_command = '$pgbackrest --config=$work/stock.conf --stanza=bench archive-push %p'"
		new_repository stock "$work/stock"
		new_repository ours "$work/ours"
		start "$work/data" $port
	} >"$log" 2>&1
}

# changes SEED changes one row in a thousand, wherever they are.
changes() {
	local half
	for half in 0 1; do
		sql $port "UPDATE events_$half SET note = 'changed $1' WHERE hashint8extended(id, $1) % 1000 = 0"
	done
	sql $port CHECKPOINT
}

# backup WHOSE FOLDER [OPTION...] sets command to a backup into a repository.
backup() {
	if [ "$1" = ours ]; then
		command=("$work/basin" backup "--repository=$2" -h "$work" -p $port -U postgres -D "$work/data" -c fast "--jobs=$jobs" "${@:3}")
	else
		stock "$2.conf" backup "${@:3}"
	fi
}

# sampled CASE WHOSE FOLDER runs command and leaves the sample in $work/last; what is in
# FOLDER after it, less what was in it before, is its output.
sampled() {
	local before
	before=$(du -s --apparent-size -B 1 "$3" | cut -f 1)
	sampling "$1" "$2" "$3"
	"${measured[@]}" "${command[@]}" >"$work/last" 2>"$log"
	awk -F '\t' -v OFS='\t' -v before="$before" 'NR == 1 { $7 -= before } { print }' "$work/last" >"$work/last.less"
	mv "$work/last.less" "$work/last"
	tell
}

# ask CASE WHOSE runs the program of a case, and leaves the sample in $work/last.
ask() {
	local name=$1 whose=$2
	doing="$name, $whose"
	rm -rf -- "$work/output"
	"${as[@]}" mkdir "$work/output"
	case $name in
	first)
		if [ "$whose" = stock ]; then # which waits for its archive, that is in this one
			backup stock "$work/stock" --type=full
			sampled "$name" stock "$work/stock"
		else
			new_repository ours "$work/ours-first" >"$log" 2>&1
			backup ours "$work/ours-first"
			sampled "$name" ours "$work/ours-first"
			rm -rf -- "$work/ours-first"
		fi
		;;
	next*)
		if [ "$whose" = stock ]; then
			seed=$((seed + 1))
			"${as[@]}" rm -rf "$work/before"
			"${as[@]}" cp -r "$work/data/base" "$work/before"
			changes $seed >"$log" 2>&1
			"$work/bench" changed "$work/before" "$work/data/base" >>"$work/changed"
		fi
		case $name-$whose in
		*-stock) backup stock "$work/stock" --type=incr ;;
		next-scan-ours) backup ours "$work/ours" --full-scan ;;
		*) backup ours "$work/ours" ;;
		esac
		sampled "$name" "$whose" "$work/$whose"
		;;
	restore*)
		if [ "$whose" = ours ]; then
			command=("$work/basin" restore "--repository=$work/ours" -D "$work/output" "--jobs=$jobs")
		else
			stock "$work/stock.conf" restore "--pg1-path=$work/output" --type=immediate
		fi
		sampled "$name" "$whose" "$work/output"
		;;
	push)
		new_repository "$whose" "$work/$whose-log" >"$log" 2>&1
		pushing "$whose"
		sampled "$name" "$whose" "$work/$whose-log"
		;;
	get)
		getting "$whose"
		sampled "$name" "$whose" "$work/output"
		;;
	esac
}

# pushing WHOSE sets command to the push of some segments, each by a process of its own.
pushing() {
	if [ "$1" = ours ]; then
		command=("$work/basin" wal push "--repository=$work/ours-log" -D "$work/data")
	else
		stock "$work/stock-log.conf" archive-push
	fi
	# shellcheck disable=SC2016
	command=(bash -e -c 'cd "$1"; shift; n=$1; shift; for s in "${@:1:n}"; do "${@:n+1}" "pg_wal/$s"; done' bash "$work/data" "${#segments[@]}" "${segments[@]}" "${command[@]}")
}

# getting WHOSE sets command to the way back.
getting() {
	if [ "$1" = ours ]; then
		command=("$work/basin" wal get "--repository=$work/ours-log")
	else
		stock "$work/stock-log.conf" archive-get
	fi
	# shellcheck disable=SC2016
	command=(bash -e -c 'to=$1; shift; n=$1; shift; for s in "${@:1:n}"; do "${@:n+1}" "$s" "$to/$s"; done' bash "$work/output" "${#segments[@]}" "${segments[@]}" "${command[@]}")
}

# compare CASE warms both up, and runs them by turns.
compare() {
	local name=$1 whose i current
	case $name in
	recovery)
		recovery
		return
		;;
	restore-30)
		say "$chain backups"
		for ((i = taken; i < chain; i++)); do
			seed=$((seed + 1))
			doing="backup $i"
			changes $seed >"$log" 2>&1
			for whose in stock ours; do
				backup "$whose" "$work/$whose"
				"${as[@]}" "${command[@]}" >"$log" 2>&1
			done
		done
		;;
	push)
		sql $port "SELECT pg_switch_wal()" >"$log" 2>&1
		current=$(sql $port "SELECT pg_walfile_name(pg_current_wal_lsn())") # those behind it wait to be used again
		mapfile -t segments < <(find "$work/data/pg_wal" -maxdepth 1 -type f -name '0000*' ! -name '*.*' -printf '%f\n' |
			awk -v current="$current" '$0 "" < current' | sort | tail -n 30 | head -n 8)
		;;
	esac
	if [[ $name != next* ]]; then
		say "$name, to warm up"
		ask "$name" stock
		ask "$name" ours
	fi
	by_turns "$pairs" ask "$name"
	if [[ $name = next* ]]; then taken=$((taken + pairs)); fi
}

# start_gateway starts a server of S3 with TLS, and one behind which all answers of the first are late.
start_gateway() {
	local data=$work/s3
	"${as[@]}" mkdir -p "$data/stock" "$data/ours"
	openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
		-keyout "$work/s3.key" -out "$work/s3.pem" 2>"$log"
	chmod a+r "$work/s3.key"
	direct=$(shuf -n 1 -i 20000-24999) late=$((direct + 1))
	ROOT_ACCESS_KEY_ID=bench ROOT_SECRET_ACCESS_KEY=bench-secret "${as[@]}" "$gateway" --quiet --port "127.0.0.1:$direct" \
		--cert "$work/s3.pem" --key "$work/s3.key" posix "$data" >"$work/s3.log" 2>&1 &
	children+=($!)
	"$work/bench" delay -by "${latency}ms" "127.0.0.1:$late" "127.0.0.1:$direct" >"$work/delay.log" 2>&1 &
	children+=($!)
	for _ in $(seq 100); do
		if (: <"/dev/tcp/127.0.0.1/$direct" && : <"/dev/tcp/127.0.0.1/$late") 2>/dev/null; then return 0; fi
		sleep 0.1
	done
	die "the server of S3 does not answer: $(cat "$work/s3.log")"
}

# s3 PORT sets ours to the words that name the repository of basin behind a port, and writes the
# configuration of pgBackRest for it to $work/PORT.conf.
s3() {
	ours=("--repository=s3://ours" "--s3-endpoint=https://localhost:$1" --s3-region=us-east-1 --s3-path-style "--s3-ca-file=$work/s3.pem")
	configure_stock "$work/$1.conf" repo1-type=s3 repo1-path=/repository repo1-s3-bucket=stock repo1-s3-endpoint=localhost \
		repo1-s3-region=us-east-1 repo1-s3-uri-style=path repo1-s3-key=bench repo1-s3-key-secret=bench-secret \
		"repo1-storage-port=$1" repo1-storage-verify-tls=n archive-async=y
	sed -i "s|^pg1-path=.*|pg1-path=$work/small|; s|^pg1-port=.*|pg1-port=$small|" "$work/$1.conf"
}

# recovery has a cluster recover out of S3, whose every answer is late.
recovery() {
	local count=${BASIN_BENCH_SEGMENTS:-300} i command ours
	doing="recovery"
	say "recovery of $count segments"
	start_gateway
	as+=(env AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=bench-secret AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null "BASIN_SPOOL=$work/ahead")
	s3 "$late"
	s3 "$direct"
	{
		make_cluster "$work/small" 'fsync = off' 'archive_mode = on' "max_wal_size = 4GB" \
			"archive_command = '$pgbackrest --config=$work/$direct.conf --stanza=bench --no-archive-async archive-push %p && $work/basin wal push ${ours[*]} %p'"
		stock "$work/$direct.conf" stanza-create --no-online
		"${as[@]}" "${command[@]}"
		"${as[@]}" "$work/basin" init "${ours[@]}"
		start "$work/small" $small
		stock "$work/$direct.conf" backup --type=full
		"${as[@]}" "${command[@]}"
		"${as[@]}" "$work/basin" backup "${ours[@]}" -h "$work" -p $small -U postgres -c fast
		sql $small 'CREATE TABLE filler (i int, t text)'
		for ((i = 0; i < count; i++)); do
			sql $small "INSERT INTO filler SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 1000) i"
			sql $small 'SELECT pg_switch_wal()'
		done
		sql $small "SELECT pg_create_restore_point('bench')"
		last=$(sql $small 'SELECT pg_walfile_name(pg_switch_wal())')
		for ((i = 0; i < 3000; i++)); do
			if [[ ! $(sql $small 'SELECT last_archived_wal FROM pg_stat_archiver') < $last ]]; then break; fi
			sleep 0.1
		done
		stop "$work/small"
	} >"$log" 2>&1
	by_turns $((pairs < 3 ? pairs : 3)) recover recovery
}

# recover CASE WHOSE restores a cluster and has it recover to the end, and leaves the sample of
# that in $work/last.
recover() {
	local name=$1 whose=$2 command ours
	doing="$name, $whose"
	rm -rf -- "$work/output" "$work/stock-run/archive" "$work/ahead"
	"${as[@]}" mkdir -m 700 "$work/output"
	s3 "$direct"
	if [ "$whose" = ours ]; then
		"${as[@]}" "$work/basin" restore "${ours[@]}" -D "$work/output" --target-name=bench --target-action=promote >"$log" 2>&1
		sed -i "s/localhost:$direct/localhost:$late/" "$work/output/postgresql.auto.conf"
	else
		stock "$work/$direct.conf" restore "--pg1-path=$work/output" --type=name --target=bench --target-action=promote --archive-mode=off \
			"--recovery-option=restore_command=$pgbackrest --config=$work/$late.conf --stanza=bench --pg1-path=$work/output archive-get %f \"%p\""
		"${as[@]}" "${command[@]}" >"$log" 2>&1
	fi
	clusters+=("$work/output")
	sampling "$name" "$whose" "$work/output"
	# shellcheck disable=SC2016
	"${measured[@]}" bash -e -c '"$1/pg_ctl" start -D "$2" -o "-p $3" -l "$2.log" -s -w -t 600
		until [ "$("$1/psql" -p "$3" -XAtc "SELECT pg_is_in_recovery()")" = f ]; do sleep 0.05; done' \
		bash "$bin" "$work/output" $restored >"$work/last" 2>"$log" || { cat "$work/output.log" >>"$log" && return 1; }
	stop "$work/output" >"$log" 2>&1
	tell
}

# stored prints what backups after the first stored, beside what of their pages was changed.
stored() {
	awk -F '\t' -v file="$work/changed" '
		$1 ~ /^next/ && $2 == "ours" { ours[++n] = $7 }
		$1 ~ /^next/ && $2 == "stock" { stock[++m] = $7 }
		END {
			while ((getline line < file) > 0) { split(line, f, "\t"); pages[++k] = f[1]; packed[k] = f[2] }
			print "| pages changed | they compressed | pgBackRest stored | basin stored | basin to compressed |"
			print "|---:|---:|---:|---:|---:|"
			for (i = 1; i <= n; i++) printf "| %d | %.1f MB | %.1f MB | %.1f MB | %.2f |\n", pages[i], packed[i]/1e6, stock[i]/1e6, ours[i]/1e6, ours[i]/packed[i]
		}' "$work/samples"
}

# objects prints how many objects a first backup made, and how large they are.
objects() {
	local count bytes
	new_repository ours "$work/ours-first" >"$log" 2>&1
	backup ours "$work/ours-first"
	"${as[@]}" "${command[@]}" >"$log" 2>&1
	count=$(find "$work/ours-first" -type f ! -path '*/wal/*' ! -path '*/~/*' | wc -l)
	bytes=$(find "$work/ours-first" -type f ! -path '*/wal/*' ! -path '*/~/*' -printf '%s\n' | awk '{ n += $1 } END { print n }')
	awk -v n="$count" -v b="$bytes" 'BEGIN { printf "%d objects of %.0f MB in all, log apart: %.0f a stored GiB (target 60)\n", n, b / 1e6, n / b * 2^30 }'
	rm -rf -- "$work/ours-first"
}

# start_time prints how long the program takes to say that a segment is not there.
start_time() {
	local i began
	for ((i = 0; i < 21; i++)); do
		began=$(now)
		"$work/basin" wal get "--repository=$work/ours" 0000000F0000000000000001 "$work/none" >"$log" 2>&1 || true
		echo $(($(now) - began))
	done | sort -n | awk 'NR == 11 { printf "%.1f ms (target 15)\n", $1 / 1000 }'
}

# page prints docs/benchmarks-repository.md.
page() {
	cat <<-END
		# Benchmarks of the repository

		basin beside pgBackRest, on the same cluster. This page is written by \`make bench\`; change
		[bench-repository.sh](../build/bench-repository.sh), not the page.

		$(facts pg_basebackup | sed "s/^| stock | .*/| stock | $("$pgbackrest" version), of Debian's testing suite |/")
		| cluster | $size, page checksums on |
		| all is on | $(filesystem "$work") |

		Both read the data directory with $jobs processes or threads, and compress with zstd: pgBackRest at level 3, basin at its default, which stores
as much; pgBackRest bundles files and stores blocks
		(\`repo1-bundle=y\`, \`repo1-block=y\`), and its archiving is on; basin takes the log of a backup along by itself. All other
		settings are the defaults, \`fsync\` and page checksums among them. The programs run by turns; a ratio is the median of those
		of the pairs, basin's time to pgBackRest's, with the least and the most.

		![ratios of time, basin to pgBackRest](benchmarks-repository.svg)

		$(awk -F '|' '{ print "- **" $1 "**: " $3 }' <<<"$comparisons")

		$(cat "$work/report")

		What the backups of **next** and **next-scan** stored, beside the pages of \`base\` that differ from those of the backup
		before, compressed by themselves (target: 1.30 at most):

		$(stored)

		A first backup: $(objects)

		\`basin wal get\` of a segment that is not there, in all: $(start_time)
	END
}

main() {
	local seed=0 taken=0 direct=0 late=0 small=5434 command=()
	accept "${whole[@]}" "$(cut -d '|' -f 1 <<<"$comparisons" | paste -s -d ' ')" "$@"
	install_postgres 18
	pgbackrest=$("$here/pgbackrest.sh") || die "pgBackRest cannot be fetched"
	"$here/tools.sh"
	gateway=$(find "${pgbackrest%/pgbackrest/bin/*}" -maxdepth 1 -name 'versitygw-*' | sort | tail -n 1)
	open_work basin-bench "$(place $((6 * scale + 4000)))"
	prepare pg_basebackup
	: >"$work/changed"
	fill
	{
		backup stock "$work/stock"
		"${as[@]}" "${command[@]}"
		backup ours "$work/ours"
		"${as[@]}" "${command[@]}"
	} >"$log" 2>&1
	size=$(du -s --apparent-size -B 100000000 "$work/data/base" | awk '{ printf "%.1f GB", $1 / 10 }')
	compare_all
	"$work/bench" plot "$work/cases" <"$work/samples" >"$work/plot.svg"
	if ((${#chosen[@]} == 0 && pairs >= whole[0] && scale >= whole[1])); then cp -- "$work/plot.svg" "$here/../docs/benchmarks-repository.svg"; fi
	publish benchmarks-repository.md "${whole[@]}"
}

main "$@"
