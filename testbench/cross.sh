#!/usr/bin/env bash
# usage: testbench/cross.sh TARGET...
#
# Looks at bin/TARGET/dunlin and dunlin-bench of each target: they must be static and stripped, and
# start under qemu-user. Prints the sizes.
set -euo pipefail
cd "$(dirname "$0")/.."

emulator() { # TARGET
	case $1 in
	linux-amd64) echo qemu-x86_64-static ;;
	linux-arm64) echo qemu-aarch64-static ;;
	# The processor of the first Raspberry Pi: an instruction of ARMv7 ends it with SIGILL.
	linux-armv6) echo qemu-arm-static -cpu arm1176 ;;
	linux-armv7) echo qemu-arm-static -cpu cortex-a7 ;;
	linux-riscv64) echo qemu-riscv64-static ;;
	linux-mipsle) echo qemu-mipsel-static -cpu 24Kc ;;
	*) return 1 ;;
	esac
}

printf '%-16s %10s  %s\n' target bytes version
for target; do
	for file in bin/$target/dunlin bin/$target/dunlin-bench; do
		# A dynamic binary names its loader in the program headers; a stripped one has no .symtab.
		headers=$(readelf -lSW "$file")
		for header in INTERP .symtab; do
			if grep -qw -- "$header" <<<"$headers"; then
				echo "$file is not static and stripped: it has $header" >&2
				exit 1
			fi
		done
		read -ra emulate <<<"$(emulator "$target")"
		if ! version=$("${emulate[@]}" "$file" version 2>&1); then
			echo "$file version does not run under ${emulate[*]}: $version" >&2
			exit 1
		fi
		printf '%-16s %10d  %s\n' "$target" "$(stat -c %s "$file")" "${version%%$'\n'*}"
	done
done
