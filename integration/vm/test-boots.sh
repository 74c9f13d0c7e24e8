#!/bin/sh
# Builds the bootable device and runs the tests that boot it, each in a machine of its own, one after the other.
# The programs are there already, and tests have run once on this machine (`make test-device` sees to that).
#
# test-boots.sh [NAME]: all of them, or those whose name contains this.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
cd "$project"
target=$(realpath "${CARGO_TARGET_DIR:-target}")
[ -f "$target/debug/test-kit/device.p12" ] || { echo "there is no test kit: use \`make test-device\`" >&2; exit 1; }

CML_DEVICE=$target/device
export CML_DEVICE
"$here/device.sh" "$CML_DEVICE"
failed=0
table=
list=$(mktemp)
# The machines note their boots there.
CML_BOOTS=$(mktemp)
export CML_BOOTS
trap 'rm -f "$list" "$list.all" "$CML_BOOTS"' EXIT
# Names of the tests that are ignored elsewhere, with the binaries that they are in.
for binary in device compat; do
    cargo test --locked -q -p cml-integration --test "$binary" -- --ignored --list >"$list.all"
    grep -q ': test$' "$list.all" || { echo "$binary has no tests for a device" >&2; exit 1; }
    sed -n "s/^\(.*\): test$/$binary \1/p" "$list.all" >>"$list"
done
grep -F -- "${1:-}" "$list" >"$list.all" || { echo "no test is called ${1:-}" >&2; exit 1; }
while read -r binary name; do
    begun=$(date +%s)
    verdict=ok
    : >"$CML_BOOTS"
    cargo test --locked -q -p cml-integration --test "$binary" -- --ignored --exact "$name" </dev/null ||
        { verdict=FAILED; failed=1; }
    boots=$(wc -l <"$CML_BOOTS")
    table="$table$(printf '%-7s %4d s  %2d boots  %s' "$verdict" "$(($(date +%s) - begun))" "$boots" "$name")
"
done <"$list.all"
echo "=== boots of the device, Linux $(cat "$CML_DEVICE/version"), each test with its own: what ran there"
printf '%s' "$table"
exit "$failed"
