#!/bin/sh
# usage: packaging/build.sh DIR
#
# Builds the packages into DIR: .deb for amd64, arm64 and armhf, .ipk for OpenWrt up to 24.10.
# Two builds of one commit are the same, byte for byte: all dates come from the commit (or
# from SOURCE_DATE_EPOCH), all modes from nfpm.yaml.
set -eu
umask 022
export LC_ALL=C.UTF-8 TZ=UTC0

mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

PACKAGE_VERSION=$(packaging/version.sh)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export PACKAGE_VERSION SOURCE_DATE_EPOCH

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
export STAGE="$stage"

# The configuration is the sample of the source with the data where the system wants it. On
# OpenWrt /var is in memory; /srv is on the flash, and is not packed into the memory of the
# router by an upgrade as /etc is.
configure() { # DATA FILE
	sed "s|^#* *data:.*|data: $1|" packaging/dunlin.yaml >"$2"
	if [ "$(grep -c "^data: $1\$" "$2")" != 1 ]; then
		echo "build.sh: packaging/dunlin.yaml must have one line for data" >&2
		exit 1
	fi
}
configure /var/lib/dunlin "$stage/deb.yaml"
configure /srv/dunlin "$stage/openwrt.yaml"

gzip -9nc packaging/dunlin.8 >"$stage/dunlin.8.gz"
gzip -9nc >"$stage/changelog.gz" <<EOF
dunlin ($PACKAGE_VERSION) unstable; urgency=medium

  * Dunlin $PACKAGE_VERSION. What is new is in CHANGELOG.md of the source.

 -- Dunlin authors <authors@dunlin.example>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
EOF

package() { # FORMAT TARGET ARCHITECTURE
	PACKAGE_ARCH=$3 BINARY=$stage/$2
	export PACKAGE_ARCH BINARY
	[ -e "$BINARY" ] || packaging/compile.sh "$2" "$BINARY"
	go tool -modfile=testbench/tools.mod nfpm package \
		--config packaging/nfpm.yaml --packager "$1" --target "$out/"
}
package deb linux-amd64 amd64
package deb linux-arm64 arm64
package deb linux-armv6 armhf
package ipk linux-arm64 aarch64_cortex-a53
package ipk linux-armv7 arm_cortex-a7_neon-vfpv4
