# Throwaway PostgreSQL clusters for the scripts beside this one, which source it.
#
# After open_work there is a folder of the script's own, and PGHOST leads into it: the
# clusters listen on sockets there and nowhere else, so that a port is only a name.
# On every exit, ^C too, the clusters are stopped and the folder is removed.
#
#	$work    the folder; below it $log, where what is going on says more
#	as       words before a command: it runs without the user's own settings and as
#	         the owner of the clusters, who for root is nobody, because PostgreSQL
#	         refuses to be run by root
#	$bin     the folder of PostgreSQL's programs; the script sets it
#	$doing   what is going on, for the message of a failure
#
# shellcheck shell=bash
set -euo pipefail
umask 022

exec {complaints}>&2 # where the end of the script is told, wherever errors then go

here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
work='' log='' bin='' doing='' folder='' as=() folders=() clusters=() children=()

# shellcheck disable=SC2034 # the scripts print with these
if [ -t 1 ]; then
	bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[m'
else
	bold='' dim='' green='' red='' plain=''
fi

# die MESSAGE ends the script.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	doing=''
	exit 1
}

# open_work NAME BASE makes the script's folder in the folder BASE.
open_work() {
	local name
	trap close_work EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	open_folder "$1" "$2"
	work=$folder
	log=$work/log
	# The name of a socket has 107 bytes: sun_path in unix(7).
	[ ${#work} -lt 80 ] || die "$2: too long a name for a socket; set TMPDIR to another folder"
	: >"$log"
	as=(env "HOME=$work")
	if [ "$(id -u)" = 0 ]; then
		as+=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
		chown 65534:65534 "$log"
	fi
	# No setting of the user's own leads these programs to another server.
	while read -r name; do unset "$name"; done < <(compgen -e PG)
	export PGHOST=$work PGUSER=postgres PGDATABASE=postgres
	cd "$work"
}

# open_folder NAME BASE makes a folder of the script's own in the folder BASE, and sets
# folder to it. It is removed with the others.
open_folder() {
	folder=$(mktemp -d "$2/$1.XXXXXX")
	folders+=("$folder")
	if [ "$(id -u)" = 0 ]; then chown 65534:65534 "$folder"; fi
}

# close_work leaves nothing behind, and of a failure what is known of it.
close_work() {
	local status=$? cluster child
	trap '' INT TERM HUP
	set +e
	exec 2>&"$complaints"
	if [ "$status" != 0 ] && [ "$status" != 130 ] && [ "$status" != 143 ] && [ -n "$doing" ]; then
		printf '%s✗ %s%s\n' "$red" "$doing" "$plain" >&2
		tail -n 20 "$log" | sed 's/^/    /' >&2
		status=1
	elif [ "$status" = 130 ] && [ -t 1 ]; then
		echo
	fi
	for child in ${children[@]+"${children[@]}"}; do
		kill "$child" 2>/dev/null && wait "$child" 2>/dev/null
	done
	for cluster in ${clusters[@]+"${clusters[@]}"}; do
		"${as[@]}" "$bin/pg_ctl" stop -D "$cluster" -m immediate -s >/dev/null 2>&1
	done
	cd /
	rm -rf -- ${folders[@]+"${folders[@]}"}
	exit "$status"
}

# make_cluster DIR [SETTING...] is initdb; a SETTING is a line of postgresql.conf.
make_cluster() {
	local dir=$1
	shift
	"${as[@]}" "$bin/initdb" --pgdata="$dir" --username=postgres --auth=trust --data-checksums \
		--encoding=UTF8 --locale=C --no-sync
	configure "$dir" "listen_addresses = ''" "unix_socket_directories = '$work'" "$@"
}

# configure DIR SETTING... appends lines to the postgresql.conf of a cluster.
configure() {
	local dir=$1
	shift
	printf '%s\n' "$@" >>"$dir/postgresql.conf"
}

# start DIR PORT starts a cluster and waits until it answers.
start() {
	clusters+=("$1")
	"${as[@]}" "$bin/pg_ctl" start -D "$1" -o "-p $2" -l "$1.log" -s -w -t 120 || {
		tail -n 15 "$1.log"
		return 1
	}
}

# stop DIR stops a cluster as it should be.
stop() {
	"${as[@]}" "$bin/pg_ctl" stop -D "$1" -m fast -s -w
}

# sql PORT QUERY prints the rows of a query, columns apart by a bar.
sql() {
	"${as[@]}" "$bin/psql" -p "$1" -X -q -A -t -v ON_ERROR_STOP=1 -c "$2"
}

# install_postgres MAJOR fetches a whole PostgreSQL, and sets bin to it.
install_postgres() {
	local answer
	answer=$("$here/postgres.sh" "$1") || die "PostgreSQL $1 cannot be fetched"
	bin=${answer##* in }/bin # "PostgreSQL 18.6 (full) in FOLDER"
}

# now prints the time in microseconds.
now() {
	echo "${EPOCHREALTIME/[.,]/}"
}
