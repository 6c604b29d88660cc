#!/usr/bin/env bash
# Formatting, vet, for macOS too, and staticcheck, the latter at the version of tools/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(gofmt -l cmd internal build)
if [ -n "$unformatted" ]; then
	printf 'not formatted (run gofmt -w):\n%s\n' "$unformatted" >&2
	exit 1
fi
go vet ./... ./build/_bench
GOOS=darwin go vet ./...
go tool -modfile=tools/go.mod staticcheck ./... ./build/_bench
