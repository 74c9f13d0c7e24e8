#!/bin/sh
# run.sh [-t SECONDS] VM PAYLOAD: boots the machine that build.sh has made in VM with the files of the directory
# PAYLOAD over its own, and runs PAYLOAD/vm-command there as root. What that prints is printed, its status is
# ours: 124 if it took too long, 125 if the machine broke down.
set -eu

limit=600
while getopts t: option; do
    case $option in
    t) limit=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
vm=$1 payload=$2

work=$(mktemp -d)
qemu=
# shellcheck disable=SC2317 # it is reached, by the trap
leave() {
    # Whatever happens to us, the machine goes with us.
    if [ -n "$qemu" ]; then
        kill "$qemu" 2>/dev/null || true
        wait "$qemu" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

mksquashfs "$payload" "$work/payload" -comp lz4 -all-root -noappend -quiet -no-progress
# A machine without cmpxchg16b: that of QEMU 7 leaves wrong flags behind, which crashes the kernel now and then.
disk() {
    echo "-drive file=$2,format=raw,if=none,readonly=on,id=$1 -device virtio-blk-pci,drive=$1,serial=$1"
}
# The processors take turns: at the same time they disagree for a moment about code that the kernel has just changed, and on a
# busy machine that crashed one boot in some dozens.
#
# Nothing here is a secret, and nobody else is in the machine.
quick="mitigations=off nokaslr init_on_alloc=0 audit=0 no_timer_check random.trust_cpu=on cryptomgr.notests"
boot() {
    : >"$work/output"
    : >"$work/status"
    # shellcheck disable=SC2046 # lists of words
    timeout --foreground -k 5 "$limit" qemu-system-x86_64 -M q35 -accel tcg,thread=single \
        -cpu max,-la57,-cx16 -smp 2 -m 2048 -nodefaults -no-user-config -display none -monitor none \
        -no-reboot -bios /usr/share/qemu/qboot.rom -kernel "$vm/vmlinux" -initrd "$vm/initramfs.cpio" \
        -append "console=ttyS0 quiet panic=-1 oops=panic $quick" -serial "file:$work/console" \
        $(disk system "$vm/system.squashfs") $(disk payload "$work/payload") -device virtio-serial-pci \
        -chardev "file,id=output,path=$work/output" -device virtserialport,chardev=output,name=output \
        -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=status \
        </dev/null &
    qemu=$!
    tail -n +1 -s 0.2 -f --pid "$qemu" "$work/output" &
    ended=0
    wait "$qemu" || ended=$?
    wait
    qemu=
}

# A boot that fails has run nothing, so another attempt hides no failure of a test.
for attempt in 1 2 3; do
    boot
    if [ -s "$work/status" ] || [ "$ended" -ne 0 ]; then break; fi
    echo "boot $attempt failed" >&2
done
status=$(tail -n 1 "$work/status")
case $status in
[0-9]*) exit "$status" ;;
esac
if [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
    status=124
    echo "the machine was stopped after $limit s; its console:" >&2
else
    status=125
    echo "the machine broke down; its console:" >&2
fi
tail -n 40 "$work/console" >&2
exit "$status"
