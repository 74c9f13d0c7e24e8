#!/bin/sh
# Runs the tests that need a kernel with device-mapper in a machine of their own: those of cml-sys that are
# ignored elsewhere, and those of the whole system whose volumes and images then lie on real devices.
#
# test-device.sh [--short | NAME [ARGUMENT...]]: all of them, those of `make test`, or one test binary with these arguments.
# The programs are there already, where CML_PROGRAMS says, and tests have run once on this machine (`make test-device` sees to
# that).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
cd "$project"
target=$(realpath "${CARGO_TARGET_DIR:-target}")
vm=$target/vm
[ -f "$target/debug/test-kit/device.p12" ] || { echo "there is no test kit: use \`make test-device\`" >&2; exit 1; }

"$here/build.sh" "$vm"
binaries=$(cargo test --locked --no-run -p cml-sys -p cml-integration --test dm --test functional \
    --test robustness 2>&1) || { echo "$binaries" >&2; exit 1; }

# Everything lies where it lies here, for tests know the paths of their time of compilation.
payload=$vm/payload
debug=$payload$target/debug
rm -rf "$payload"
mkdir -p "$debug/static" "$debug/deps" "$payload$project"
# The programs that are tested are those that are shipped, as in the device (device.sh).
programs=${CML_PROGRAMS:-out/programs}
cp "$programs/cmld" "$programs/control" "$debug"
cp "$programs/cml-init" "$debug/static"
strip -g -o "$debug/static/cml-probe" "$target/debug/static/cml-probe"
cp -a images "$payload$project"
mkdir -p "$payload$project/integration"
cp -a "$target/debug/test-kit" "$debug"
# The kit is not to be made again, and it would be for a newer probe.
touch -d @0 "$debug/static/cml-probe"
for test in dm functional robustness; do
    file=$(echo "$binaries" | sed -n "s|.*(\(.*/deps/$test-[0-9a-f]*\))$|\1|p")
    strip -g -o "$debug/deps/$test" "$file"
done

{
    echo "cd '$target/debug/deps'"
    cat <<'STEPS'
table=
failed=0
# step BINARY [ARGUMENT...]
step() {
    echo "=== $*"
    before=$(cut -d. -f1 /proc/uptime)
    verdict=ok
    # dash has no status of a pipe's first program.
    { ./"$@"; echo $? >/run/status; } 2>&1 | tee /run/output
    [ "$(cat /run/status)" -eq 0 ] || { verdict=FAILED; failed=1; }
    took=$(($(cut -d. -f1 /proc/uptime) - before))
    counts=$(sed -n 's/^test result: [^.]*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' /run/output)
    table="$table$(printf '%-7s %4d s  %-24s %s' "$verdict" "$took" "$counts" "$*")
"
}
STEPS
    # The devices of `dm` have names that others would clash with. Here cgroup2 has all controllers, and no version 1 is mounted.
    case ${1:-} in
    '')
        cat <<'STEPS'
step dm --ignored --test-threads 1
step functional --include-ignored --test-threads 2 encryption wipe verity
step functional --include-ignored --test-threads 2 resources::limits_are_kept_by_version_2_alone \
    resources::a_hog_of_memory devices::rules_are_kept_by_the_groups freezer
step robustness --include-ignored --test-threads 2 damage
STEPS
        ;;
    --short)
        cat <<'STEPS'
step dm --ignored --test-threads 1
step functional --include-ignored --test-threads 2 encryption::what_a_container_writes verity::a_block_that_was_changed \
    resources::limits_are_kept_by_version_2_alone devices::rules_are_kept_by_the_groups freezer::a_frozen_container_does
STEPS
        ;;
    *)
        printf 'step'
        for word in "$@"; do printf " '%s'" "$word"; done
        echo
        ;;
    esac
    cat <<'STEPS'
left=$(dmsetup ls)
[ "$left" = "No devices found" ] || { echo "devices are left: $left"; failed=1; }
echo "=== one boot of Linux $(uname -r), $(cut -d. -f1 /proc/uptime) s: what ran there"
printf '%s' "$table"
exit "$failed"
STEPS
} >"$payload/vm-command"

"$here/run.sh" -t "${VM_LIMIT:-2400}" "$vm" "$payload"
