#!/usr/bin/env bash
# usage: testbench/smoke-arm.sh
#
# Starts the broker that was compiled for arm64 and for ARMv6 under qemu-user and has
# mosquitto's clients publish to it and subscribe, with a retained message, an offline queue and a
# restart in between.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
pid=
finish() {
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT

fail() {
	echo "smoke: $*" >&2
	[ ! -s "$dir/log" ] || sed 's/^/  broker: /' "$dir/log" >&2
	exit 1
}

# A port that nobody listens on.
port=$((20000 + RANDOM % 10000))
while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done

start() { # EMULATOR... BINARY
	"$@" serve --listen "127.0.0.1:$port" --data "$dir/data" >>"$dir/log" 2>&1 &
	pid=$!
	local deadline=$((SECONDS + 60))
	until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
		kill -0 "$pid" 2>/dev/null || fail "$* ended before it listened"
		[ $SECONDS -lt $deadline ] || fail "$* does not listen after 60 s"
		sleep 0.05
	done
}

stop() {
	kill -TERM "$pid"
	wait "$pid" || fail "the broker ended with status $? after SIGTERM"
	pid=
}

pub() { timeout 60 mosquitto_pub -p "$port" "$@" || fail "mosquitto_pub $*: status $?"; }
# sub WANT ARGUMENTS: what is received must be WANT.
sub() {
	local want=$1 got
	shift
	got=$(timeout 60 mosquitto_sub -p "$port" -W 50 "$@") || fail "mosquitto_sub $*: status $?"
	[ "$got" = "$want" ] || fail "mosquitto_sub $*: got ${got@Q}, want ${want@Q}"
}

try() { # NAME EMULATOR... BINARY
	local name=$1
	shift
	rm -rf "$dir/data" "$dir/log"
	start "$@"
	# A session that is away, and a retained message.
	timeout 60 mosquitto_sub -p "$port" -V 5 -x 3600 -c -i away -q 2 -t 'plant/+/temp' -E ||
		fail "mosquitto_sub -E: status $?"
	pub -V 5 -q 1 -t plant/a/temp -m 21.5 -r
	pub -V 311 -q 2 -t plant/b/temp -m 22.5
	sub 21.5 -V 311 -q 1 -t plant/a/temp -C 1
	stop
	# The answers were given, so all of it is there after a restart.
	start "$@"
	sub $'plant/a/temp 21.5\nplant/b/temp 22.5' -V 5 -x 3600 -c -i away -q 2 -t 'plant/+/temp' -C 2 -v -R
	sub 21.5 -V 5 -q 0 -t plant/a/temp -C 1
	stop
	echo "smoke: $name serves, keeps and restarts"
}

packaging/compile.sh linux-arm64 bin/linux-arm64/dunlin
packaging/compile.sh linux-armv6 bin/linux-armv6/dunlin
try arm64 qemu-aarch64-static bin/linux-arm64/dunlin
try armv6 qemu-arm-static -cpu arm1176 bin/linux-armv6/dunlin
