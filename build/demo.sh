#!/usr/bin/env bash
# Keeps backups and the log of a cluster that is being written to in a repository, has a
# table dropped by accident, and restores the cluster to the second before.
#
#	build/demo.sh BASIN
#
# BASIN is the program. The cluster is a throwaway one of the newest PostgreSQL from
# 13 to 18 on this machine, or, where there is none, of the PostgreSQL 18 that
# build/postgres.sh fetches. It takes about a minute and 900 MB below TMPDIR.
# shellcheck source-path=SCRIPTDIR source=cluster.sh
. "$(dirname -- "$(realpath -- "$0")")/cluster.sh"

readonly first=5432 second=5433 # ports; sockets in a folder of our own
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
	make_cluster "$work/first" 'fsync = off' 'max_wal_size = 2GB' 'checkpoint_timeout = 1h' 'archive_mode = on' \
		"archive_command = '$work/basin wal push --repository=$work/repository %p'"
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

# run shows a command of basin and what it says.
run() {
	printf '%s$ basin%s%s\n' "$dim" "$(printf ' %q' "$@")" "$plain"
	"${as[@]}" "$work/basin" "$@"
}

back_up() {
	doing="a backup; what it said is above"
	run backup --repository="$work/repository" -h "$work" -p "$first" -U postgres -c fast
	doing=''
}

# change writes enough that a backup differs from the one before.
change() {
	sql $first "UPDATE articles SET title = 'About ' || title WHERE id % 500 = 0"
	sql $first "INSERT INTO readings SELECT i, now(), 1 FROM generate_series(1, 5000) i"
	detail="$(history $first) transactions by now"
}

# remember notes what is in the tables that nobody writes to.
remember() {
	local table
	for table in customers articles readings; do
		sql $first "$(digest "$table")" >"$work/$table"
	done
	before=$(history $first)
	sleep 1
	moment=$(sql $first "SELECT clock_timestamp()")
	sleep 1
	detail="$(cut -d '|' -f 1 "$work/customers") rows in customers"
}

accident() {
	sql $first 'DROP TABLE customers'
	segment=$(sql $first 'SELECT pg_walfile_name(pg_current_wal_insert_lsn())')
	sql $first 'SELECT pg_switch_wal()'
	detail="at $(sql $first "SELECT to_char(clock_timestamp(), 'HH24:MI:SS')")"
}

# archived waits until the log of the accident is in the repository.
archived() {
	until [[ ! $(sql $first 'SELECT last_archived_wal FROM pg_stat_archiver') < $segment ]]; do
		sleep 0.1
	done
	detail="$(megabytes "$work/repository") in the repository"
}

bring_back() {
	doing="the restore; what it said is above"
	run restore --repository="$work/repository" -D "$work/second" -T "$work/space=$work/space-of-second" \
		--target-time="$moment" --target-action=promote
	doing=''
}

verify() {
	"${as[@]}" "$bin/pg_verifybackup" --no-parse-wal "$work/second"
	detail="$(grep -c '"Path"\|"Encoded-Path"' "$work/second/backup_manifest") files"
}

restore() {
	start "$work/second" $second
	until [ "$(sql $second 'SELECT pg_is_in_recovery()')" = f ]; do sleep 0.1; done
	[ "$(sql $second "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'apart'")" = "$work/space-of-second" ]
	detail="to $moment"
}

# digest TABLE prints a query for the number of its rows, and the sum of a hash of each, in any order.
digest() {
	printf "SELECT to_char(count(*), 'FM999,999,999'), sum(hashtextextended(t::text, 0)::numeric) FROM %s t" "$1"
}

# compare TABLE compares rows with what was there before the accident.
compare() {
	local had got
	had=$(cat "$work/$1")
	got=$(sql $second "$(digest "$1")")
	detail="${had%|*} rows"
	echo "before the accident (rows|sum of hashes): $had; restored: $got"
	[ "$had" = "$got" ]
}

# balance checks what every transaction of pgbench keeps true, and every half of one breaks.
balance() {
	local sums
	sums=$(sql $second "SELECT
		(SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
	copied=$(history $second) after=$(history $first)
	echo "accounts|tellers|branches|history: $sums; transactions before the accident $before, in the copy $copied, now $after"
	[ "$(tr '|' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ]
	((before <= copied && copied <= after))
	detail="$copied transactions"
}

amcheck() {
	"${as[@]}" "$bin/pg_amcheck" -p $second --install-missing --heapallindexed -d postgres
}

main() {
	local base=${TMPDIR:-/tmp} table version before='' after='' copied='' moment='' segment=''
	[ $# = 1 ] || die "usage: build/demo.sh BASIN"
	[ -x "$1" ] || die "$1: not a program; make builds it"
	if [ "$(id -u)" = 0 ]; then base=/tmp; fi # which nobody may enter
	find_postgres
	set -- "$(realpath -- "$1")"
	open_work basin-demo "$base"
	cp -- "$1" "$work/basin"
	doing="$1 --version"
	version=$("$work/basin" --version 2>"$log")
	printf '%s%s%s keeps a cluster at work\n' "$bold" "$version" "$plain"

	chapter "The repository"
	"${as[@]}" mkdir "$work/repository"
	doing="basin init"
	run init "$work/repository"

	chapter "The cluster"
	step "made, with a second tablespace; archives its log" create
	step "filled: text, jsonb, time series, seven indexes" fill
	step "pgbench writes to it from now on" write_on

	chapter "Backups"
	back_up
	step "some rows change" change
	back_up
	run list --repository="$work/repository"
	step "what is in the tables is noted" remember

	chapter "The accident"
	step "DROP TABLE customers" accident
	step "the log of it is archived" archived

	chapter "The restore, to the second before"
	bring_back
	if [ -x "$bin/pg_verifybackup" ]; then
		step "pg_verifybackup: every file is what the server sent" verify
	else
		printf '%s\n' "- pg_verifybackup is not on this machine: the files are not checked"
	fi
	step "started beside the first, log replayed" restore
	for table in customers articles readings; do
		step "$table: the same rows as before" compare "$table"
	done
	step "pgbench: accounts, tellers, branches, history agree" balance
	if [ -x "$bin/pg_amcheck" ]; then
		step "pg_amcheck: tables sound, each row in each index" amcheck
	else
		printf '%s\n' "- pg_amcheck is not on this machine: the indexes are not checked"
	fi
	printf '\n%sThe table is back%s, and the copy is the cluster as it was at %s:\n%s transactions are in it, and %s in the first by now.\n' \
		"$bold" "$plain" "$moment" "$copied" "$after"
	doing=''
}

main "$@"
