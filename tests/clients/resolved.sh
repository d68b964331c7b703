# Runs systemd-resolved without systemd: resolved.sh PACKAGES FOLDER. PACKAGES has the unpacked packages. The Unix socket
# appears in FOLDER/resolve.
set -e
mkdir -p "$2/resolve" /run/systemd/resolve
mount --bind "$2/resolve" /run/systemd/resolve
cp /etc/passwd "$2/passwd"
grep -q '^systemd-resolve:' "$2/passwd" || echo 'systemd-resolve:x:0:0::/:/usr/sbin/nologin' >> "$2/passwd"
mount --bind "$2/passwd" /etc/passwd
LD_LIBRARY_PATH="$1/usr/lib/$(uname -m)-linux-gnu/systemd:$1/lib/systemd"
export LD_LIBRARY_PATH SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=warning
exec "$1/lib/systemd/systemd-resolved"
