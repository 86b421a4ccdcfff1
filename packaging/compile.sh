#!/bin/sh
# usage: packaging/compile.sh TARGET FILE [COMMAND]
#
# Compiles the broker, or another COMMAND of cmd, for TARGET into FILE. Every binary of Dunlin comes from here: static (no
# cgo), stripped, and the same bytes from the same commit wherever and whenever it is built.
set -eu

target=$1
command=${3:-dunlin}
case $2 in
/*) file=$2 ;;
*) file=$PWD/$2 ;;
esac
cd "$(dirname "$0")/.."

case $target in
host) ;;
linux-amd64) export GOOS=linux GOARCH=amd64 GOAMD64=v1 ;;
linux-arm64) export GOOS=linux GOARCH=arm64 ;;
# ARMv6 runs on every Raspberry Pi, and is what Raspberry Pi OS means by armhf.
linux-armv6) export GOOS=linux GOARCH=arm GOARM=6 ;;
linux-armv7) export GOOS=linux GOARCH=arm GOARM=7 ;;
linux-riscv64) export GOOS=linux GOARCH=riscv64 ;;
# The processors of small routers compute floats in software.
linux-mipsle) export GOOS=linux GOARCH=mipsle GOMIPS=softfloat ;;
*)
	echo "compile.sh: unknown target $target" >&2
	exit 2
	;;
esac

CGO_ENABLED=0 exec go build -trimpath -buildvcs=false \
	-ldflags "-s -w -buildid= -X main.version=$(packaging/version.sh)" \
	-o "$file" "./cmd/$command"
