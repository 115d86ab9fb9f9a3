#!/bin/sh
# Builds the agent for each machine, byte for byte the same wherever this compiler is the same.
# Needs, on Debian 12: gcc (or gcc-x86-64-linux-gnu) and gcc-aarch64-linux-gnu. Run by `make agent`.
set -eu
cd "$(dirname "$0")"
out=${1:-.}

build() {
    "$2" -Os -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector \
        -fno-tree-loop-distribute-patterns -fno-pic -no-pie -fno-asynchronous-unwind-tables \
        -fno-ident -nostdlib -static -s -Wl,--build-id=none,-z,norelro,-z,noseparate-code \
        -Wl,-z,noexecstack $3 -o "$out/agent.$1" agent.c
}

build x86_64 "${CC_X86_64:-x86_64-linux-gnu-gcc}" -fcf-protection=none
build aarch64 "${CC_AARCH64:-aarch64-linux-gnu-gcc}" -mno-outline-atomics
cat agent.c trees.c | sha256sum | cut -d ' ' -f 1 >"$out/SOURCE"
