#!/usr/bin/env bash
# usage: testbench/test.sh [STAGE...]
#
# Every test of the tree, in stages, each with a log in bin/log. A failed stage does not hold
# back the others; the summary at the end says what failed, and so does the exit status.
#
#	format    gofmt
#	vet       go vet, for this machine and for 32-bit ARM
#	race      the product's packages under the race detector
#	bench     testbench: the real binary under kills, cut links, full idle connections; the
#	          packages, and the service in a booted container. Without the race detector, which
#	          would slow down the load and falsify what is measured
#	peers     the same binary and clients of other projects, in a module of their own
#	arm64     the short unit tests of the core and the stores, compiled for ARM, under qemu-user
#	armv6
#	smoke     the ARM binaries serve mosquitto's clients, under qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."

testbench/need.sh mosquitto mosquitto-clients=mosquitto_pub qemu-user-static=qemu-aarch64-static \
	binutils=readelf e2fsprogs=mkfs.ext4 xfsprogs=mkfs.xfs strace lintian shellcheck systemd=systemd-analyze \
	systemd-container=systemd-nspawn iproute2=ip util-linux=nsenter util-linux=setpriv mmdebstrap arch-test dpkg=dpkg-deb

logs=bin/log
[ $# -gt 0 ] || set -- format vet race bench peers arm64 armv6 smoke
rm -rf "$logs"
mkdir -p "$logs"

# One binary for all that drive it from outside.
packaging/compile.sh host bin/dunlin
export DUNLIN_BINARY=$PWD/bin/dunlin

# What decides and what stores: all that could go wrong with another size of int, another order of
# memory or another alignment. The event loop is among it; qemu-user can do nested epoll.
pure=(./core/... ./storeforward/... ./uplink/forward ./platform/clock)

stage_format() {
	local files
	files=$(gofmt -l .)
	[ -z "$files" ] || {
		echo "not formatted by gofmt:"
		echo "$files"
		return 1
	}
}
stage_vet() { go vet ./... && GOARCH=arm go vet ./...; }
stage_race() { go list ./... | grep -v '/testbench/' | xargs go test -v -race -shuffle=on -timeout 15m; }
stage_bench() { go test -v -p 1 -shuffle=on -timeout 20m ./testbench/...; }
stage_peers() { (cd testbench/peers && go vet ./... && go test -v -p 1 -shuffle=on -timeout 15m ./...); }
stage_arm64() { GOARCH=arm64 go test -v -short -timeout 15m -exec qemu-aarch64-static "${pure[@]}"; }
stage_armv6() { GOARCH=arm GOARM=6 go test -v -short -timeout 15m -exec 'qemu-arm-static -cpu arm1176' "${pure[@]}"; }
stage_smoke() { testbench/smoke-arm.sh; }

# count WORD LOG...: how many tests, with subtests, ended in PASS, FAIL or SKIP.
count() {
	local word=$1
	shift
	cat "$@" | grep -cE "^ *--- $word: " || true
}

# disorder prints of a log what is not in order: without the tests that passed, and what they said.
disorder() {
	awk '
		/^=== / || /^-test.shuffle/ || /no test files/ || /^PASS$/ { next }
		/^# / || /^(vet: )?[^ ]+\.go:[0-9]+:[0-9]+: / { print; next } # does not compile
		/^ *--- (PASS|SKIP): / || /^ok / { said = ""; next }
		{ said = said $0 "\n" }
		/^ *--- FAIL: / || /^FAIL/ { printf "%s", said; said = "" }
		END { printf "%s", said }'
}

failed=()
started=$SECONDS
for stage; do
	log=$logs/$stage.log
	began=$SECONDS
	result=ok
	# A subshell with its own -e: a function called in a condition would run on after a failure.
	set +e
	(
		set -e
		"stage_$stage"
	) >"$log" 2>&1
	status=$?
	set -e
	if [ $status != 0 ]; then
		result=FAILED
		failed+=("$stage")
		disorder <"$log" | tail -n 80
	fi
	printf '%-7s %-6s %5d passed %3d failed %3d skipped %5d s\n' "$stage" $result \
		"$(count PASS "$log")" "$(count FAIL "$log")" "$(count SKIP "$log")" $((SECONDS - began))
done

echo
printf '%d tests passed, %d failed, %d skipped in %d s; logs in %s\n' \
	"$(count PASS $logs/*.log)" "$(count FAIL $logs/*.log)" "$(count SKIP $logs/*.log)" $((SECONDS - started)) $logs
if [ ${#failed[@]} -gt 0 ]; then
	echo "failed: ${failed[*]}"
	exit 1
fi
echo "everything passed"
