#!/usr/bin/env bash
# Install what the tortures need and this machine lacks. Does nothing the second time.
set -euo pipefail

missing=()
needs() { # COMMAND PACKAGE
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2")
}

needs losetup mount
needs mkfs.ext4 e2fsprogs
needs mkfs.xfs xfsprogs
needs mkfs.btrfs btrfs-progs
needs cc gcc
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)

[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "tortures: no ${missing[*]}; what needs them is left out" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "${missing[@]}"
} >/dev/null 2>&1 || echo "tortures: cannot install ${missing[*]}" >&2
