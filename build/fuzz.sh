#!/usr/bin/env bash
# Runs the fuzz targets of the module for the given time each: all, or those that are named,
# as DIRECTORY/TARGET or TARGET, such as internal/accept/FuzzStartup.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
wanted=("${@:2}")

# is_wanted DIRECTORY TARGET
is_wanted() {
	[ ${#wanted[@]} -gt 0 ] || return 0
	local w
	for w in "${wanted[@]}"; do
		case $w in "$1/$2" | "$2") return 0 ;; esac
	done
	return 1
}

count=0
while read -r file; do
	dir=$(dirname "$file")
	while read -r target; do
		is_wanted "$dir" "$target" || continue
		count=$((count + 1))
		printf '== %s %s\n' "$dir" "$target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "./$dir" </dev/null
	done < <(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file")
done < <(grep -rlE '^func Fuzz' --include='*_test.go' internal cmd)
if [ "$count" -lt "${#wanted[@]}" ] || [ "$count" -eq 0 ]; then
	echo "of the fuzz targets that were named (${wanted[*]}) there are $count" >&2
	exit 1
fi
