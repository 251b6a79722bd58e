#!/bin/sh
# Put one preview task with nothing but sh, printf and mv.
#
#     put_from_shell.sh SPOOL PHOTO OUT [PRIORITY [AT]]
#
# PRIORITY is a whole number, smaller is more urgent (5); AT is when it is due: +2s, +5m
# or 2026-11-20T21:01:00Z (at once). Paths should be absolute: the daemon runs elsewhere.
set -eu
umask 077

if [ $# -lt 3 ] || [ $# -gt 5 ]; then
    echo "usage: $0 SPOOL PHOTO OUT [PRIORITY [AT]]" >&2
    exit 2
fi
spool=$1 photo=$2 out=$3 priority=${4:-5} at=${5:-}

case $photo$out$at in
*'
'*) echo "$0: a value with a newline needs key:=json" >&2; exit 2 ;;
esac

# Never the same name twice, or one mv would replace the file of another.
name=$(uname -n).$(date +%s).$$

{
    printf 'task=preview\nphoto=%s\nout=%s\n' "$photo" "$out"
    [ -z "$at" ] || printf 'at=%s\n' "$at"
} >"$spool/tmp/$name"

# The task is there, whole, once this rename is done. The slash at the end matters:
# without such a folder mv fails, and does not make a file of that name.
mv "$spool/tmp/$name" "$spool/$priority/"
