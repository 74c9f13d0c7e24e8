#!/bin/bash
# Runs all tests that need another kernel or a device of their own, in machines of QEMU, and prints one table of what ran
# in which boot and how long.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
status=0
"$here/test-device.sh" | tee "$said/one" || status=1
"$here/test-boots.sh" | tee "$said/many" || status=1
echo
for part in one many; do
    # Each ends with its part of the table.
    sed -n '/^=== .*: what ran/,$p' "$said/$part"
done
exit "$status"
