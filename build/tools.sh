#!/usr/bin/env bash
# Installs the programs that tests check our output with, where they are missing.
set -euo pipefail
missing=()
for program in lz4 zstd; do
	command -v "$program" >/dev/null || missing+=("$program") # Debian's packages have these names
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
