#!/usr/bin/env bash
# usage: testbench/chaos.sh [STAGE...]
#
# The long form of the tests that kill the broker and cut its power, into testbench/results: what
# was run, on what, and what came of it; a report of the same day and commit is added to. The short
# form of each is part of make test. Needs root.
#
#	kills      the process is killed under everything that may happen at once, also with 32 MiB
#	steps      crashes at each step of QoS 2, and the order of system calls
#	cuts       the disk loses what it has not flushed, in part and out of order: on several file
#	           systems, also with 32 MiB; a broker that does not flush is found out
#	recovery   the same, and once more while file system and broker recover
#	flows      the same to two brokers at once, whose devices go on from where they were
#	snapshots  the disk is copied while it is in use
#	damage     its files are damaged in every way, and what is left of them counted by a second
#	           opinion. Quick, and a report of its own with make survey
#	faults     each operation of a file fails once
#	fulldisk   small file systems are filled again and again, and the broker killed on them
set -euo pipefail
cd "$(dirname "$0")/.."

testbench/need.sh mosquitto mount=losetup e2fsprogs=mke2fs xfsprogs=mkfs.xfs btrfs-progs=mkfs.btrfs \
	util-linux=setpriv

packaging/compile.sh host bin/dunlin
export DUNLIN_BINARY=$PWD/bin/dunlin
mkdir -p bin/log

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=-changed
[ $# -gt 0 ] || set -- kills steps cuts recovery flows snapshots damage faults fulldisk
report=testbench/results/$(date -u +%F)-$commit-${CHAOS_REPORT:-chaos}.txt
mkdir -p testbench/results

stage_kills() { go test -v -count=1 -timeout 60m ./testbench/crash -long; }
stage_steps() { go test -v -p 1 -count=1 ./testbench/steps ./testbench/order; }
cut() { (cd testbench/peers && go test -v -count=1 -timeout 60m ./powercut -long -run "$1"); }
stage_cuts() { cut '^TestPowerCutsLose'; }
stage_recovery() { cut '^TestCutsDuringRecovery'; }
stage_flows() { cut '^TestPowerCutsAmid'; }
stage_snapshots() { cut '^TestSnapshots'; }
stage_faults() { (cd testbench/peers && go test -v -count=1 -timeout 30m ./faults -long); }
stage_fulldisk() { go test -v -count=1 -timeout 30m ./testbench/fulldisk -long; }
stage_damage() { go test -v -count=1 -timeout 60m ./testbench/survey -cases 600; }

# figures prints of the output of a stage what is worth keeping: what the tests said and how they
# ended, with the subtests that passed as a number.
figures() {
	awk '
		/^=== / || /^-test.shuffle/ || /^PASS$/ { next }
		/^ +--- PASS: / { passed++; next }
		{ print }
		END { if (passed) print passed " subtests passed" }'
}

failed=()
[ -e "$report" ] || {
	echo "make chaos: testbench/chaos.sh"
	echo "commit $commit, $(date -u +'%F %T') UTC, $(go env GOVERSION)"
	echo "$(uname -srm), $(nproc) CPUs, files of the kills on $(df --output=fstype /tmp | tail -n 1)"
} >"$report"
for stage; do
	echo "== $stage"
	log=bin/log/chaos-$stage.log
	began=$SECONDS
	"stage_$stage" >"$log" 2>&1 || failed+=("$stage")
	{
		echo
		echo "== $stage, $((SECONDS - began)) s"
		figures <"$log"
	} | tee -a "$report"
done
echo
echo "written to $report"
if [ ${#failed[@]} -gt 0 ]; then
	echo "failed: ${failed[*]}" | tee -a "$report"
	exit 1
fi
