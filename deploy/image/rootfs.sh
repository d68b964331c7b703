#!/bin/sh
# Lays out the image's root: the agent, the libraries that it is linked to, the authorities that
# verify servers, and nothing else.
# Usage: rootfs.sh BINARY DIR
set -eu

binary=$1
dir=$2

mkdir -p "$dir/etc/egress-agent/config" "$dir/etc/egress-agent/rules" "$dir/usr/local/bin" \
    "$dir/node" "$dir/run" "$dir/proc" "$dir/sys" "$dir/tmp"
install -m 0755 "$binary" "$dir/usr/local/bin/egress-agent"

authorities=/etc/ssl/certs/ca-certificates.crt
if [ -f "$authorities" ]; then
    install -D -m 0644 "$authorities" "$dir$authorities"
fi

# `ldd` prints `NAME => PATH (ADDRESS)` for a library and `PATH (ADDRESS)` for the loader. A static
# binary has neither.
{ ldd "$binary" 2>/dev/null || true; } |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' |
    while read -r library; do
        mkdir -p "$dir$(dirname "$library")"
        cp -L "$library" "$dir$library"
    done
