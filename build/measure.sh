# What bench.sh, its like and million.sh share, which source it: a program is run, what it took is
# noted, and a page is made of that. It brings cluster.sh along.
#
#	$work/basin    the program that is measured; prepare copied it
#	$work/bench    what measures and reports: _bench, built
#	$work/last     the sample of the last run
#	$work/samples  all that count
#	measured       words before a command of which a sample is made; sampling sets them
#	chosen         cases that were asked for; none is all
#	pairs, scale   of BASIN_BENCH_PAIRS and BASIN_BENCH_SCALE
#
# shellcheck shell=bash source-path=SCRIPTDIR source=cluster.sh
. "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/cluster.sh"

chosen=() measured=() pairs='' scale='' program=''

# say prints what goes on, beside the report.
say() {
	printf '%s\n' "$*" >&2
}

# wanted CASE tells whether a case was asked for.
wanted() {
	((${#chosen[@]} == 0)) || [[ " ${chosen[*]} " == *" $1 "* ]]
}

# accept PAIRS SCALE CASES BASIN [CASE...] takes the command line, which follows the names
# of all cases there are, and the settings, before which are what they are without one.
accept() {
	local known=$3 name
	pairs=${BASIN_BENCH_PAIRS:-$1} scale=${BASIN_BENCH_SCALE:-$2}
	shift 3
	[ $# -ge 1 ] || die "usage: build/${0##*/} BASIN [CASE...]"
	[ -x "$1" ] || die "$1: not a program; make builds it"
	[[ $pairs =~ ^[1-9][0-9]*$ && $scale =~ ^[1-9][0-9]*$ ]] || die "BASIN_BENCH_PAIRS and BASIN_BENCH_SCALE are whole numbers"
	program=$(realpath -- "$1")
	shift
	chosen=("$@")
	for name; do
		[[ " $known " == *" $name "* ]] || die "$name: no such case; there are $known"
	done
}

# place MB prints the folder that everything goes to: memory, if there is room.
place() {
	local free
	free=$(df --output=avail -B 1000000 /dev/shm 2>/dev/null | tail -n 1) || free=0
	if ((${free:-0} > $1)); then
		echo /dev/shm
	elif [ "$(id -u)" = 0 ]; then
		echo /tmp
	else
		echo "${TMPDIR:-/tmp}"
	fi
}

# filesystem DIR prints the kind of file system that a folder is on.
filesystem() {
	df --output=fstype "$1" | tail -n 1
}

# prepare STOCK... builds what measures, and makes sure that the stock programs run: the
# server of the cache must be whole.
prepare() {
	local stock
	doing="preparing"
	go -C "$here/.." build -o "$work/bench" ./build/_bench
	cp -- "$program" "$work/basin"
	for stock; do "$bin/$stock" --version >"$log"; done
	: >"$work/samples"
}

# load PORT ROWS fills a cluster, on two connections.
load() {
	local half
	for half in 0 1; do
		"${as[@]}" "$bin/psql" -p "$1" -X -q -v ON_ERROR_STOP=1 -v half=$half -v rows="$2" \
			-f - <"$here/bench.sql" >"$work/half$half.log" 2>&1 &
		children+=($!)
	done
	for half in 0 1; do
		wait "${children[half]}" || { cat "$work/half$half.log" && return 1; }
	done
	children=()
}

# sampling CASE WHOSE FOLDER sets measured to the words before a command that make a sample
# of it. What it makes in FOLDER counts as its output, unless that is empty.
sampling() {
	measured=("${as[@]}" "$work/bench" run -case "$1" -program "$2")
	if [ -n "$3" ]; then measured+=(-output "$3"); fi
}

# tell prints the last sample.
tell() {
	awk -F '\t' '{
		printf "  %-24s %-6s %8.2f s  CPU %8.2f s  memory %7.1f MB", $1, $2, $3/1e6, $4/1e6, $5/1e6
		if (NF > 7) printf "  %8.0f tps  p50 %6.2f ms  p99 %6.2f ms", $8/$9*1e6, $10/1e3, $11/1e3
		print ""
	}' "$work/last" >&2
}

# by_turns COUNT COMMAND CASE ARGUMENT... runs COMMAND CASE WHOSE ARGUMENT... for stock and
# ours by turns, COUNT pairs, and keeps the samples.
by_turns() {
	local count=$1 run=$2 name=$3 i whose
	shift 3
	say "$name, $count pairs"
	for ((i = 0; i < count; i++)); do
		for whose in stock ours; do
			"$run" "$name" "$whose" "$@"
			cat "$work/last" >>"$work/samples"
		done
	done
}

# facts STOCK prints about the machine what has a part in the figures, and nothing that
# names it, as rows of a table. STOCK is the program that is compared with.
facts() {
	local model
	model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
	cat <<-END
		| | |
		|---|---|
		| date | $(date -u +%Y-%m-%d) |
		| processor | $(nproc) cores, ${model:-unknown} |
		| memory | $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo) |
		| kernel | $(uname -sr) |
		| basin | $("$work/basin" --version | head -n 1), $(go version "$work/basin" | awk '{ print $NF }') |
		| stock | $("$bin/$1" --version) |
		| server | $("$bin/postgres" --version) |
	END
}

# compare_all runs compare for each case of comparisons that was asked for, and reports.
compare_all() {
	local name options
	while IFS='|' read -r name _ options <&3; do
		# shellcheck disable=SC2086 # options are several
		if wanted "$name"; then compare "$name" $options; fi
	done 3<<<"$comparisons"
	doing="the report"
	tr '|' '\t' <<<"$comparisons" >"$work/cases"
	"$work/bench" report "$work/cases" <"$work/samples" >"$work/report" 2>"$log"
}

# publish PAGE PAIRS SCALE has page print the page: to docs/PAGE after a whole run, of all
# cases, at full size and with at least as many pairs; others only show it.
publish() {
	if ((${#chosen[@]} == 0 && pairs >= $2 && scale >= $3)); then
		page >"$here/../docs/$1"
		say "docs/$1 is written"
		cat "$work/report"
	else
		page
	fi
}
