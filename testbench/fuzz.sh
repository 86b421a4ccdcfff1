#!/usr/bin/env bash
# usage: testbench/fuzz.sh TIME [PACKAGE...]
#
# Runs each fuzz target of the packages (all of them by default) for TIME, one after the other.
# What a target finds is written to the testdata/fuzz of its package, to be committed.
set -euo pipefail
cd "$(dirname "$0")/.."

time=$1
shift
[ $# -gt 0 ] || set -- ./...

failed=()
targets=0
# Each line: PACKAGE TARGET. go test -list prints the targets of a package before its "ok" line.
list=$(go test -list '^Fuzz' "$@" | awk '/^Fuzz/ { names[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }')
while read -r package target; do
	[ -n "$target" ] || continue
	targets=$((targets + 1))
	echo "== $package $target for $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" || failed+=("$package $target")
done <<<"$list"

echo "$targets fuzz targets, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	printf '  %s\n' "${failed[@]}"
	exit 1
fi
