#!/usr/bin/env bash
# Backs up a cluster that is being written to, starts the copy, and shows that
# both hold the same.
#
#	build/demo.sh BASIN
#
# BASIN is the program. The cluster is a throwaway one of the newest PostgreSQL from
# 13 to 18 on this machine, or, where there is none, of the PostgreSQL 18 that
# build/postgres.sh fetches. It takes about half a minute and 600 MB below TMPDIR.
# shellcheck source-path=SCRIPTDIR source=cluster.sh
. "$(dirname -- "$(realpath -- "$0")")/cluster.sh"

readonly first=5432 second=5433 # ports; sockets in a folder of our own
readonly rate=32                # MB/s, so that there is time to watch
readonly column='%-54s %22s %9s\n'

# complete says whether a folder has what the demonstration cannot do without.
complete() {
	local program
	for program in postgres initdb pg_ctl psql pgbench; do
		[ -x "$1/$program" ] || return 1
	done
}

# find_postgres sets bin to a server with all client programs.
find_postgres() {
	local candidate major best=0
	for candidate in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin $(command -v postgres pg_ctl | xargs -r dirname); do
		complete "$candidate" || continue
		major=$("$candidate/postgres" --version | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p') || continue
		if ((major >= 13 && major <= 18 && major > best)); then
			best=$major bin=$candidate
		fi
	done
	if ((best == 0)); then
		echo "No PostgreSQL here; fetching 18 (once, a minute or two)."
		install_postgres 18
	fi
}

chapter() {
	printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

# tell TEXT [DETAIL [SINCE]] prints one finished step; SINCE is a time of now.
tell() {
	local took=''
	if [ -n "${3:-}" ]; then took=$(seconds "$3"); fi
	# shellcheck disable=SC2059
	printf "%s✓%s $column" "$green" "$plain" "$1" "${2:-}" "$took"
}

# seconds SINCE prints how long it is since then.
seconds() {
	awk -v us="$(($(now) - $1))" 'BEGIN { printf "%.1f s", us / 1e6 }'
}

# step TEXT COMMAND... runs a command, which may set detail.
step() {
	local began
	began=$(now)
	doing=$1 detail=''
	shift
	if [ -t 1 ]; then printf '%s· %s …%s\r' "$dim" "$doing" "$plain"; fi
	"$@" >"$log" 2>&1
	if [ -t 1 ]; then printf '\e[K'; fi
	tell "$doing" "$detail" "$began"
}

# megabytes DIR... prints the sum of what files in folders hold.
megabytes() {
	du -s -c --apparent-size -B 1000000 "$@" | awk 'END { print $1 " MB" }'
}

create() {
	make_cluster "$work/first" 'fsync = off' 'max_wal_size = 2GB' 'checkpoint_timeout = 1h'
	start "$work/first" $first
	"${as[@]}" mkdir "$work/space"
	sql $first "CREATE TABLESPACE apart LOCATION '$work/space'"
	detail="PostgreSQL $(sql $first "SELECT split_part(current_setting('server_version'), ' ', 1)")"
}

fill() {
	"${as[@]}" "$bin/psql" -p $first -X -q -v ON_ERROR_STOP=1 -f - <"$here/demo.sql"
	"${as[@]}" "$bin/pgbench" -p $first -i -q -s 2
	detail=$(megabytes "$work/first/base" "$work/space")
}

# write_on starts what writes to the cluster until the end of the demonstration.
write_on() {
	"${as[@]}" "$bin/pgbench" -p $first -n -c 2 -R 300 -T 3600 >"$work/pgbench.log" 2>&1 &
	children+=($!)
	until (($(history $first) >= 300)); do
		kill -0 "${children[0]}" 2>/dev/null || { cat "$work/pgbench.log" && return 1; }
		sleep 0.1
	done
	detail="300 transactions/s"
}

history() {
	sql "$1" 'SELECT count(*) FROM pgbench_history'
}

back_up() {
	local command=(basebackup -h "$work" -p "$first" -U postgres -D "$work/second"
		-T "$work/space=$work/space-of-second" -c fast -X stream -r "${rate}M" -P -v)
	doing="the backup; what it said is above" began=$(now)
	printf '%s$ basin %s%s\n' "$dim" "$(sed -E 's/ -(D|T|c)/ \\\n      -\1/g' <<<"${command[*]}")" "$plain"
	"${as[@]}" "$work/basin" "${command[@]}"
	doing=''
	tell "copied, the log written meanwhile included" "$(megabytes "$work/second" "$work/space-of-second")" "$began"
}

verify() {
	"${as[@]}" "$bin/pg_verifybackup" "$work/second"
	detail="$(grep -c '"Path"\|"Encoded-Path"' "$work/second/backup_manifest") files"
}

restore() {
	start "$work/second" $second
	[ "$(sql $second 'SELECT pg_is_in_recovery()')" = f ]
	[ "$(sql $second "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'apart'")" = "$work/space-of-second" ]
	detail="consistent"
}

# compare TABLE compares rows in any order: their number, and the sum of a hash of each.
compare() {
	local query="SELECT to_char(count(*), 'FM999,999,999'), sum(hashtextextended(t::text, 0)::numeric) FROM $1 t" a b
	a=$(sql $first "$query")
	b=$(sql $second "$query")
	detail="${a%|*} rows"
	echo "in the cluster (rows|sum of hashes): $a; in its copy: $b"
	[ "$a" = "$b" ]
}

# balance checks what every transaction of pgbench keeps true, and every half of one breaks.
balance() {
	local sums
	sums=$(sql $second "SELECT
		(SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
	copied=$(history $second) after=$(history $first)
	echo "accounts|tellers|branches|history: $sums; transactions before the backup $before, in the copy $copied, now $after"
	[ "$(tr '|' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ]
	((before <= copied && copied <= after))
	detail="$copied transactions"
}

amcheck() {
	"${as[@]}" "$bin/pg_amcheck" -p $second --install-missing --heapallindexed -d postgres
}

main() {
	local base=${TMPDIR:-/tmp} began table version
	[ $# = 1 ] || die "usage: build/demo.sh BASIN"
	[ -x "$1" ] || die "$1: not a program; make builds it"
	if [ "$(id -u)" = 0 ]; then base=/tmp; fi # which nobody may enter
	find_postgres
	set -- "$(realpath -- "$1")"
	open_work basin-demo "$base"
	cp -- "$1" "$work/basin"
	doing="$1 --version"
	version=$("$work/basin" --version 2>"$log")
	printf '%s%s%s backs up a cluster at work\n' "$bold" "$version" "$plain"

	chapter "The cluster"
	step "made, with page checksums and a second tablespace" create
	step "filled: text, jsonb, time series, seven indexes" fill
	step "pgbench writes to it from now on" write_on
	before=$(history $first)

	chapter "The backup, of at most $rate MB/s to make it last"
	back_up

	chapter "The copy"
	if [ -x "$bin/pg_verifybackup" ]; then
		step "pg_verifybackup: every file is what the server sent" verify
	else
		printf '%s\n' "- pg_verifybackup is not on this machine: the files are not checked"
	fi
	step "started beside the first, log replayed" restore
	for table in customers articles readings; do
		step "$table: the same rows in both" compare "$table"
	done
	step "pgbench: accounts, tellers, branches, history agree" balance
	if [ -x "$bin/pg_amcheck" ]; then
		step "pg_amcheck: tables sound, each row in each index" amcheck
	else
		printf '%s\n' "- pg_amcheck is not on this machine: the indexes are not checked"
	fi
	printf '\n%sThe copy is the cluster%s as it was at the end of the backup: %s transactions were committed\nbefore the backup began, %s are in the copy, %s are in the first by now.\n' \
		"$bold" "$plain" "$before" "$copied" "$after"
	doing=''
}

main "$@"
