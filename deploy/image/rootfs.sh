#!/bin/sh
# Lays out the image's root: the agent, the libraries that it is linked to, and nothing else.
# Usage: rootfs.sh BINARY DIR
set -eu

binary=$1
dir=$2

mkdir -p "$dir/etc/egress-agent/config" "$dir/etc/egress-agent/rules" "$dir/node" "$dir/run" \
    "$dir/proc" "$dir/sys" "$dir/tmp"
install -m 0755 "$binary" "$dir/egress-agent"

# `ldd` prints `NAME => PATH (ADDRESS)` for a library and `PATH (ADDRESS)` for the loader.
ldd "$binary" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' |
    while read -r library; do
        mkdir -p "$dir$(dirname "$library")"
        cp -L "$library" "$dir$library"
    done
