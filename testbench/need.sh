#!/usr/bin/env bash
# usage: testbench/need.sh PACKAGE[=COMMAND]...
#
# Makes sure that each COMMAND (by default: of the package's name) is there. Where it may, it
# installs the Debian packages of those that are missing; else it prints the line to paste, and fails.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # of daemons and file system tools

missing=()
for need; do
	command -v "${need#*=}" >/dev/null || missing+=("${need%%=*}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "Missing: ${missing[*]}. On Debian or Ubuntu:" >&2
	echo "    sudo apt-get update && sudo ${install[*]}" >&2
	exit 1
fi

# An archive folder of its own: a hook of container images empties the shared one after any run of
# apt, also under the feet of another run.
archives=$(mktemp -d)
trap 'rm -rf "$archives"' EXIT
mkdir "$archives/partial"
options=(-q -o "Dir::Cache::archives=$archives" -o DPkg::Lock::Timeout=300)
log=$archives/log

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The lists may be old or not there at all: try with those, then with new ones.
if ! "${install[@]}" "${options[@]}" >"$log" 2>&1; then
	{ apt-get update "${options[@]}" && "${install[@]}" "${options[@]}"; } >"$log" 2>&1 || {
		cat "$log" >&2
		echo "This failed: apt-get update && ${install[*]}" >&2
		exit 1
	}
fi
