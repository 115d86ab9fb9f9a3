#!/bin/sh
# Builds the program whose source is in a directory of its name, for each machine: byte for byte the
# same wherever this compiler is the same. Takes the directory and, unless it is that, where to put
# the result. Needs, on Debian 12: gcc (or gcc-x86-64-linux-gnu) and gcc-aarch64-linux-gnu. Run by
# `make agent`.
set -eu
shared=$(cd "$(dirname "$0")" && pwd)
cd "$1"
out=${2:-.}
name=$(basename "$PWD")

build() {
    "$2" -Os -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector \
        -fno-tree-loop-distribute-patterns -fno-pic -no-pie -fno-asynchronous-unwind-tables \
        -fno-ident -nostdlib -static -s -Wl,--build-id=none,-z,norelro,-z,noseparate-code \
        -Wl,-z,noexecstack $3 -o "$out/$name.$1" "$name.c"
}

build x86_64 "${CC_X86_64:-x86_64-linux-gnu-gcc}" -fcf-protection=none
build aarch64 "${CC_AARCH64:-aarch64-linux-gnu-gcc}" -mno-outline-atomics
cat "$shared"/*.h ./*.c | sha256sum | cut -d ' ' -f 1 >"$out/SOURCE"
