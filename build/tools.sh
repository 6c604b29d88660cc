#!/usr/bin/env bash
# Installs the programs that tests check our output with, where they are missing.
# versitygw, a server of S3, lands in CACHE/tools; build/postgres.sh says what CACHE is.
set -euo pipefail
umask 022

missing=()
for program in lz4 openssl zstd; do
	command -v "$program" >/dev/null || missing+=("$program") # Debian's packages have these names
done
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
fi

if [ -n "${BASIN_CACHE:-}" ]; then
	cache=$(realpath -m -- "$BASIN_CACHE")
elif [ "$(id -u)" = 0 ]; then
	cache=/var/cache/basin
else
	cache=$(realpath -m -- "${XDG_CACHE_HOME:-$HOME/.cache}/basin")
fi
versitygw=v1.8.0 # which internal/object/s3/s3test names, too
mkdir -p "$cache/tools"
exec 9>"$cache/tools/.lock"
flock 9
if [ ! -x "$cache/tools/versitygw-$versitygw" ]; then
	echo "tools.sh: building versitygw $versitygw, which takes minutes the first time" >&2
	work=$(mktemp -d "$cache/tools/.work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(cd "$work" && CGO_ENABLED=0 GOFLAGS='' GOBIN=$work go install "github.com/versity/versitygw/cmd/versitygw@$versitygw")
	mv "$work/versitygw" "$cache/tools/versitygw-$versitygw"
fi
