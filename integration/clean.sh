#!/bin/sh
# Runs a command and fails if it leaves mounts, loop devices, network namespaces, control groups,
# directories or processes of ours behind on the machine. Tests that could show nothing on it are listed.
set -eu

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

look() {
    awk '{print $5, $9, $10}' /proc/self/mountinfo | sort
    losetup -n -O BACK-FILE -l 2>/dev/null | sort
    cat /sys/block/dm-*/dm/name 2>/dev/null | sort
    # Network namespaces: named ones, and all that some process is in.
    ls /run/netns 2>/dev/null || true
    lsns -t net -n -o NS 2>/dev/null | sort
    find /sys/fs/cgroup -type d -path '*/cml/*' 2>/dev/null | sort
    # Directories of the fixture.
    find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'cml??????' 2>/dev/null | sort
    # The daemon, and every process that still is the sealed copy of cml-init.
    find /proc -maxdepth 2 -name exe \( -lname '*/cmld' -o -lname '*memfd:cml-init*' \) 2>/dev/null | sort
}

look >"$state/before"
status=0
CML_SKIPPED=$state/skipped "$@" || status=$?
[ ! -s "$state/skipped" ] || sed 's/^/SKIPPED /' "$state/skipped"
# The kernel frees loop devices and groups a moment after their last user is gone.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    look >"$state/after"
    # What was there before may go: it is somebody else's.
    diff "$state/before" "$state/after" | grep '^>' >"$state/left" || true
    [ -s "$state/left" ] || break
    sleep 0.5
done
if [ -s "$state/left" ]; then
    cat "$state/left" >&2
    echo "left on the machine: see the lines above" >&2
    exit 1
fi
exit "$status"
