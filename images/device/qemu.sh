#!/bin/bash
# Boots a device that build.sh has made in QEMU, emulated: no part of this machine is needed for it.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

usage() {
    cat <<'USAGE'
usage: qemu.sh DIR [OPTION...] [-- QEMU_ARGUMENT...]

Boots DIR/disk.img with its kernel and initramfs, in some seconds. The console is a shell in core0; Ctrl-a x ends the
machine, Ctrl-a h tells what else there is. What is stored stays in the image.

  --disk FILE           another disk image
  --uefi                boot as a real machine does: firmware, EFI system partition, unified kernel image
  --log FILE            an empty file that gets every write and every flush of the disk, as dm-log-writes does; neither need
                        survive a crash of the machine on which QEMU runs
  --append WORDS        more for the command line of the kernel; not with --uefi
  --serial DEVICE       the console, as QEMU's -serial has it (default: this terminal)
  -h, --help            this text
USAGE
}

dir='' disk='' uefi=no append='' serial=mon:stdio log=''
while [ $# -gt 0 ]; do
    case $1 in
    --disk) need_value "$1" $#; disk=$2; shift 2 ;;
    --uefi) uefi=yes; shift ;;
    --log) need_value "$1" $#; log=$2; shift 2 ;;
    --append) need_value "$1" $#; append=$2; shift 2 ;;
    --serial) need_value "$1" $#; serial=$2; shift 2 ;;
    --)
        shift
        break
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) usage_error "unexpected argument '$1'" ;;
    *)
        [ -z "$dir" ] || usage_error "unexpected argument '$1'"
        dir=$1
        shift
        ;;
    esac
done
[ -n "$dir" ] || usage_error "no directory given"
disk=${disk:-$dir/disk.img}
need qemu-system-x86_64 qemu-system-x86
need_file "$disk"

# A machine without cmpxchg16b: that of QEMU 7 leaves wrong flags behind, which crashes the kernel now and then; as do
# processors that do not take turns, when the kernel changes its code. And a disk
# whose requests are not merged: what the driver of the log adds to the largest ones is more than a system call takes.
machine=(-M q35 -accel "tcg,thread=single" -cpu "max,-la57,-cx16" -smp 2 -m 2048 -nodefaults -no-user-config -display none
    -serial "$serial" -device "virtio-blk-pci,drive=disk,request-merging=off" -device virtio-rng-pci
    -netdev "user,id=uplink" -device "virtio-net-pci,netdev=uplink")
if [ -n "$log" ]; then
    machine+=(-blockdev "driver=file,node-name=image,filename=$disk,cache.no-flush=on"
        -blockdev "driver=file,node-name=log,filename=$log,cache.no-flush=on"
        -blockdev "driver=blklogwrites,node-name=disk,file=image,log=log,log-sector-size=512")
else
    machine+=(-blockdev "driver=file,node-name=disk,filename=$disk")
fi
case $uefi in
yes)
    firmware=/usr/share/OVMF/OVMF_CODE_4M.fd
    [ -f "$firmware" ] || die "no firmware; install the package 'ovmf'"
    # What the firmware remembers means nothing: it finds the one entry of the disk by itself.
    machine+=(-drive "if=pflash,format=raw,readonly=on,file=$firmware")
    ;;
no)
    # Emulated: nothing here needs protection from other programs of the same machine.
    quick="mitigations=off nokaslr init_on_alloc=0 no_timer_check random.trust_cpu=on cryptomgr.notests"
    machine+=(-bios /usr/share/qemu/qboot.rom -kernel "$dir/vmlinux" -initrd "$dir/initramfs.cpio"
        -append "console=ttyS0 quiet panic=-1 $quick $append")
    ;;
esac
exec qemu-system-x86_64 "${machine[@]}" "$@"
