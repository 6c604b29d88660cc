#!/bin/bash
# Runs PostgreSQL 18's own tests of its backup programs against ours.
#
#	build/conformance.sh [--programs DIR] [FILE...]
#
# DIR holds our programs under the names of the ones they replace, as
# "make compat" lays them out; those that are not there are PostgreSQL's. A FILE
# is a TAP test of PostgreSQL's source, such as
# src/bin/pg_basebackup/t/010_pg_basebackup.pl; without one, the files below.
#
# Each file is also run with nothing replaced, once for a version of PostgreSQL:
# what it then says is kept in the cache. Ours must run as many tests, skip no more of
# them, and pass all. Without --programs there is only that first run.
#
# Nothing of PostgreSQL is built for this. The tests come with its source, and the
# servers and all else they call with build/postgres.sh, which also says where
# the cache is.
set -euo pipefail
umask 022

readonly major=18
readonly known=18.6 # the version that this was last looked at with
readonly default_files=(
	src/bin/pg_basebackup/t/010_pg_basebackup.pl
	src/bin/pg_basebackup/t/011_in_place_tablespace.pl
	src/bin/pg_basebackup/t/020_pg_receivewal.pl
	src/bin/pg_basebackup/t/030_pg_recvlogical.pl
	src/bin/pg_verifybackup/t/001_basic.pl
	src/bin/pg_verifybackup/t/002_algorithm.pl
	src/bin/pg_verifybackup/t/003_corruption.pl
	src/bin/pg_verifybackup/t/004_options.pl
	src/bin/pg_verifybackup/t/005_bad_manifest.pl
	src/bin/pg_verifybackup/t/006_encoding.pl
	src/bin/pg_verifybackup/t/007_wal.pl
	src/bin/pg_verifybackup/t/008_untar.pl
	src/bin/pg_verifybackup/t/009_extract.pl
	src/bin/pg_verifybackup/t/010_client_untar.pl
	src/bin/pg_combinebackup/t/001_basic.pl
	src/bin/pg_combinebackup/t/002_compare_backups.pl
	src/bin/pg_combinebackup/t/003_timeline.pl
	src/bin/pg_combinebackup/t/004_manifest.pl
	src/bin/pg_combinebackup/t/005_integrity.pl
	src/bin/pg_combinebackup/t/006_db_file_copy.pl
	src/bin/pg_combinebackup/t/007_wal_level_minimal.pl
	src/bin/pg_combinebackup/t/008_promote.pl
	src/bin/pg_combinebackup/t/009_no_full_file.pl
	src/bin/pg_combinebackup/t/010_hardlink.pl
	src/bin/pg_combinebackup/t/011_ib_truncation.pl
	src/bin/pg_combinebackup/t/012_vm_consistency.pl
)

build=$(dirname -- "$(realpath -- "$0")")

die() {
	printf 'conformance.sh: %s\n' "$*" >&2
	exit 2
}

# need installs a package unless a command succeeds: need PACKAGE COMMAND...
need() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 && return
	[ "$(id -u)" = 0 ] || die "$package is missing; as root: apt-get install $package"
	{ apt-get install -y -qq --no-install-recommends "$package" ||
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; }; } >&2 ||
		die "cannot install $package"
}

# unprivileged runs a command as a user that PostgreSQL and its tests accept.
unprivileged() {
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid=nobody --regid=nogroup --clear-groups -- "$@"
	else
		"$@"
	fi
}

# lay_out makes a folder that is PostgreSQL's but for the programs that a folder of
# ours has too, and prints their names: lay_out TREE [PROGRAMS]. The programs are
# copies and not links, as each looks beside itself for others, and for the share
# folder by the way that leads there from itself.
lay_out() {
	local program name
	mkdir -p "$1/lib/postgresql/$major"
	cp -a "$prefix/bin/." "$1/lib/postgresql/$major/bin"
	ln -s "$prefix/lib/postgresql/$major/lib" "$1/lib/postgresql/$major/lib"
	ln -s "$prefix/share" "$prefix/include" "$1/"
	ln -s "lib/postgresql/$major/bin" "$1/bin"
	for program in ${2:+"$2"/*}; do
		name=${program##*/}
		[ -x "$1/bin/$name" ] || continue
		rm "$1/bin/$name"
		cp -L "$program" "$1/bin/"
		echo "$name"
	done
}

# run_file runs one test file with the programs of a tree, and prints
# "TESTS SKIPS FAILURES SECONDS": run_file TREE FILE LOGS
run_file() {
	local start=$SECONDS status=0 folder
	folder=$(dirname -- "$(dirname -- "$2")")
	mkdir -p "$3"
	[ "$(id -u)" != 0 ] || chown nobody: "$3"
	(
		cd "$source/$folder"
		unprivileged env -i \
			PATH="$1/bin:/usr/local/bin:/usr/bin:/bin" HOME=/nonexistent LC_ALL=C.UTF-8 \
			PERL5LIB="${PERL5LIB:-}" PG_TEST_TIMEOUT_DEFAULT="${PG_TEST_TIMEOUT_DEFAULT:-180}" \
			TESTDATADIR="$3" TESTLOGDIR="$3/log" PG_TEST_PORT_DIR="$3/ports" PGPORT=65432 \
			INITDB_TEMPLATE="$work/template" top_builddir="$source" \
			PG_REGRESS="$prefix/lib/postgresql/$major/lib/pgxs/src/test/regress/pg_regress" \
			share_contrib_dir="$prefix/share/postgresql/$major/extension" \
			TAR=tar GZIP_PROGRAM=gzip LZ4=lz4 ZSTD=zstd OPENSSL=openssl \
			with_ssl=openssl enable_injection_points=no \
			prove --verbose --norc -I "$source/src/test/perl" -I . "t/$(basename -- "$2")"
	) >"$3/tap" 2>&1 || status=$?
	awk -v status="$status" -v seconds=$((SECONDS - start)) '
		/^(not )?ok [0-9]/ {
			tests++
			if (tolower($0) ~ /# skip/) skips++
			else if ($1 == "not" && tolower($0) !~ /# todo/) failures++
		}
		/^1\.\.0 # SKIP/ { skips++ }
		# A file that died, or ran another number of tests than it promised.
		END { print tests + 0, skips + 0, failures + (status && !failures), seconds }' "$3/tap"
}

# stock prints what a file does with nothing replaced, from the cache if it is
# known there; only a run without a failure is kept: stock FILE
stock() {
	local name=${1//\//-} result
	if [ ! -s "$results/$name" ]; then
		result=$(run_file "$work/stock" "$1" "$work/stock-$name")
		if [ "$(cut -d ' ' -f 3 <<<"$result")" != 0 ]; then
			echo "$result"
			return
		fi
		echo "$result" >"$results/$name.new"
		mv "$results/$name.new" "$results/$name"
	fi
	cat "$results/$name"
}

# judge prints the verdict over one file:
# judge STOCK_TESTS STOCK_SKIPS STOCK_FAILURES TESTS SKIPS FAILURES
judge() {
	if [ "$3" != 0 ] || [ "$1" = 0 ]; then
		echo "FAIL: PostgreSQL's own programs do not pass here"
	elif [ "$6" != 0 ]; then
		echo "FAIL: $6 of $4 tests"
	elif [ "$4" != "$1" ]; then
		echo "FAIL: another number of tests"
	elif [ "$5" -gt "$2" ]; then
		echo "FAIL: more tests skipped"
	else
		echo "ok"
	fi
}

# report prints what failed in a log, and where all of it is: report LOGS
report() {
	grep -E '^(not ok|#  |Bail out|Can.t|Undefined)' "$1/tap" | head -n 30 | sed 's/^/    /' || true
	echo "    all of it: $1/tap and $1/log"
}

# check_file runs one file and prints its line of the table; fails if the file
# does: check_file FILE
check_file() {
	local file=$1 name=${1//\//-} tests skips failures seconds own=() verdict
	read -r tests skips failures seconds < <(stock "$file")
	if [ -n "$programs" ]; then
		read -r -a own < <(run_file "$work/ours" "$file" "$work/ours-$name")
		seconds=${own[3]}
	else
		own=("$tests" "$skips" "$failures")
	fi
	verdict=$(judge "$tests" "$skips" "$failures" "${own[@]:0:3}")
	[ -n "$programs" ] || own=(- -)
	printf '%-52s %6s %6s %6s %6s %6s  %s\n' "$file" "$tests" "$skips" "${own[0]}" "${own[1]}" "$seconds" "$verdict"
	[ "$verdict" != ok ] || return 0
	[ "$failures" = 0 ] || report "$work/stock-$name"
	[ -z "$programs" ] || report "$work/ours-$name"
	return 1
}

main() {
	local file version ours
	programs=
	if [ "${1:-}" = --programs ]; then
		programs=$(realpath -e -- "${2:?DIR}")
		shift 2
	fi
	[ $# -gt 0 ] || set -- "${default_files[@]}"

	need perl command -v prove
	need libipc-run-perl perl -MIPC::Run -e 1
	need lz4 command -v lz4
	need zstd command -v zstd
	need openssl command -v openssl
	"$build/postgres.sh" "$major" >&2
	source=$("$build/postgres.sh" --source "$major")
	prefix=${source%-source}
	version=$(sed -n 's/^version=//p' "$prefix/installed")
	results=$(dirname "$(dirname "$prefix")")/conformance/$(cat "$source/installed")
	mkdir -p "$results"
	for file; do
		[ -f "$source/$file" ] || die "PostgreSQL $version has no $file"
	done

	failed=0
	work=$(mktemp -d "${TMPDIR:-/tmp}/conformance.XXXXXX")
	# What failed is kept to be looked at.
	trap '[ "$failed" = 1 ] || rm -rf "$work"' EXIT
	chmod 755 "$work"
	lay_out "$work/stock"
	if [ -n "$programs" ]; then
		ours=$(lay_out "$work/ours" "$programs")
		[ -n "$ours" ] || die "$programs: none of PostgreSQL's programs is there"
	fi
	# initdb once, of which PostgreSQL's tests take copies.
	mkdir "$work/template"
	[ "$(id -u)" != 0 ] || chown nobody: "$work/template"
	unprivileged env -i HOME=/nonexistent LC_ALL=C.UTF-8 "$work/stock/bin/initdb" --auth=trust --no-sync \
		--no-instructions --lc-messages=C --no-clean "$work/template" >/dev/null

	echo "PostgreSQL $version${programs:+, with our ${ours//$'\n'/, }}"
	[ "$version" = "$known" ] || echo "note: this was last looked at with $known; new tests may be no fault of ours"
	printf '%-52s %6s %6s %6s %6s %6s  %s\n' file stock skips ours skips seconds result
	for file; do
		check_file "$file" || failed=1
	done
	exit "$failed"
}

main "$@"
