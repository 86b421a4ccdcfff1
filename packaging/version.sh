#!/bin/sh
# Prints the version of this checkout in a form that Go, dpkg and opkg all order rightly:
#
#	0.1.0              the tag v0.1.0
#	0.1.0+7.g1a2b3c4d  seven commits after it
#	0.0.0+7.g1a2b3c4d  no tag yet: seven commits since the first
#
# VERSION in the environment wins, for a tree without its history. Nothing here depends on the
# time or on uncommitted changes, so that the same commit always builds the same bytes.
set -eu

if [ -n "${VERSION:-}" ]; then
	echo "$VERSION"
	exit
fi
cd "$(dirname "$0")/.."
if tag=$(git describe --tags --long --abbrev=8 --match 'v[0-9]*' 2>/dev/null); then
	base=${tag%-*-g*}
	since=${tag#"$base"-}
	case $since in
	0-g*) echo "${base#v}" ;;
	*) echo "${base#v}+${since%-g*}.${since##*-}" ;;
	esac
elif commit=$(git rev-parse --short=8 HEAD 2>/dev/null); then
	echo "0.0.0+$(git rev-list --count HEAD).g$commit"
else
	echo 0.0.0
fi
