#!/bin/bash
# Builds a bootable device: kernel, root file system, data partition, and a disk image with all of them.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

usage() {
    cat <<'USAGE'
usage: build.sh OUTDIR --programs DIR [OPTION...]

Writes into OUTDIR:
  disk.img                    GPT: EFI system partition with one unified kernel image, root, data
  vmlinux, initramfs.cpio     to boot it directly in QEMU, without firmware
  root.squashfs               the root file system: read-only
  pki/                        a PKI for development, unless --pki names another one
  operatingsystems/           the guest OSes on it: gyroidos-coreos (core0) and busybox

  --programs DIR        directory of cmld, cml-init and a static control
  --pki DIR             PKI whose software signing root the device trusts, and whose ssig_cml signs
  --data-size MIB       size of the data partition (default 2048; the image is sparse)
  --store DIR           further guest OSes, laid out like operatingsystems/
  --device-conf FILE    device.conf (default: that of a device with core0)
  --comp NAME           compressor of the root file system: zstd (default), or lz4, which is larger and sooner done
  -h, --help            this text
USAGE
}

out='' programs='' pki='' data_size=2048 device_conf='' more='' comp=zstd
while [ $# -gt 0 ]; do
    case $1 in
    --programs) need_value "$1" $#; programs=$2; shift 2 ;;
    --pki) need_value "$1" $#; pki=$2; shift 2 ;;
    --data-size) need_value "$1" $#; data_size=$2; shift 2 ;;
    --store) need_value "$1" $#; more=$2; shift 2 ;;
    --comp) need_value "$1" $#; comp=$2; shift 2 ;;
    --device-conf) need_value "$1" $#; device_conf=$2; shift 2 ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) usage_error "unexpected argument '$1'" ;;
    *)
        [ -z "$out" ] || usage_error "unexpected argument '$1'"
        out=$1
        shift
        ;;
    esac
done
[ -n "$out" ] || usage_error "no output directory given"
[ -n "$programs" ] || usage_error "no directory of programs given"
[[ $data_size =~ ^[1-9][0-9]{1,6}$ ]] || usage_error "'$data_size' is no usable size in MiB"
case $comp in
zstd | lz4) ;;
*) usage_error "unknown compressor '$comp'" ;;
esac
PATH=$PATH:/usr/sbin:/sbin
for pair in mksquashfs:squashfs-tools mke2fs:e2fsprogs sfdisk:fdisk mcopy:mtools objcopy:binutils cpio:cpio modprobe:kmod \
    busybox:busybox-static depmod:kmod zstd:zstd xz:xz-utils; do
    need "${pair%:*}" "${pair#*:}"
done
for program in cmld cml-init control; do need_file "$programs/$program"; done
need nft nftables
[ "$(id -u)" -eq 0 ] || die "the files of the device belong to root; run this as root"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
programs=$(cd -- "$programs" && pwd)
enter_outdir "$out"
development=no
if [ -z "$pki" ]; then
    development=yes
    pki=$OUT/pki
    "$IMAGES_DIR/pki/make-pki.sh" "$pki" "${PKI_KEYS:-rsa:3072}" >/dev/null
fi
sign=(--key "$pki/ssig_cml.key" --cert "$pki/ssig_cml.cert")

note "kernel"
"$here/kernel.sh" "$OUT"
version=$(cat "$OUT/version")
modules=$OUT/kernel/lib/modules/$version
# The firmware's part of a unified kernel image; taken from its package, which is not installed.
if [ ! -f "$OUT/linuxx64.efi.stub" ]; then
    (cd "$OUT/apt" && rm -f systemd-boot-efi_*.deb && apt-get -c apt.conf download -qq systemd-boot-efi)
    dpkg -x "$OUT"/apt/systemd-boot-efi_*.deb "$WORK/boot"
    cp "$WORK/boot/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$OUT/"
fi

note "root file system"
root=$WORK/root
mkdir -p "$root"/usr/{bin,sbin,lib,lib64,libexec/cml} "$root"/{dev,proc,sys,run,tmp,var,data,root,etc/ssl}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
install -m 0755 "$(command -v busybox)" "$root/usr/bin/busybox"
busybox --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/usr/bin/$applet"
done
ln -s ../bin/busybox "$root/usr/sbin/init"

# with_libraries FILE...: the shared libraries that these programs need, where they look for them.
with_libraries() {
    local file
    for file in "$@"; do ldd "$file" 2>/dev/null || true; done | grep -o '/[^ ]*' | sort -u | while read -r library; do
        install -D -m 0755 -- "$library" "$root/usr/${library#/}" 2>/dev/null ||
            die "cannot copy the library '$library'"
    done
    # Those of a system whose /lib is a link of its own.
    if [ -d "$root/usr/usr" ]; then cp -a "$root/usr/usr/." "$root/usr/" && rm -rf "$root/usr/usr"; fi
}
# What cmld runs, and what a device is looked after with; busybox has some of it, but not all of its options.
tools=(mke2fs e2fsck mkfs.btrfs btrfstune btrfs nft kmod)
for tool in "${tools[@]}"; do
    found=$(command -v "$tool") || die "program '$tool' not found"
    rm -f "$root/usr/bin/$tool" "$root/usr/sbin/$tool"
    install -m 0755 "$(readlink -f "$found")" "$root/usr/sbin/$tool"
    with_libraries "$found"
done
for name in modprobe insmod rmmod lsmod depmod modinfo; do
    rm -f "$root/usr/bin/$name"
    ln -s kmod "$root/usr/sbin/$name"
done
for name in mkfs.ext4 mkfs.ext3 mkfs.ext2; do ln -sf mke2fs "$root/usr/sbin/$name"; done
install -m 0755 "$programs/cmld" "$programs/control" "$root/usr/sbin/"
install -m 0755 "$programs/cml-init" "$root/usr/libexec/cml/"
with_libraries "$programs/cmld"
# Loaded when they are needed: no program names them.
libraries=usr/lib/$(uname -m)-linux-gnu
cp -L "/$libraries/libgcc_s.so.1" "$root/$libraries/"
cp -rL "/$libraries/ossl-modules" "$root/$libraries/"
cp /etc/mke2fs.conf "$root/etc/"
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
cp -r "$here/root/." "$root/"
chmod 0755 "$root"/etc/device/* "$root"/etc/acpi/*/*
if [ "$development" = yes ]; then : >"$root/etc/device/development"; fi
ln -s ../run/resolv.conf "$root/etc/resolv.conf"
ln -s ../proc/self/mounts "$root/etc/mtab"

# The wanted modules with what they need; a list of paths as modules.dep has them.
wanted=$WORK/wanted
(cd "$modules" && sed 's/#.*//; /^$/d' "$here/modules" | while read -r part; do
    find "kernel/$part" "kernel/$part.xz" -name '*.ko*' -type f 2>/dev/null || true
done) | sort -u >"$wanted.named"
awk -F': *' 'NR == FNR { named[$1] = 1; next } $1 in named { print $1; n = split($2, needs, " "); for (i = 1; i <= n; i++) print needs[i] }' \
    "$wanted.named" "$modules/modules.dep" | sort -u >"$wanted"
[ -s "$wanted" ] || die "the kernel has none of the modules that are wanted"
target=$root/usr/lib/modules/$version
mkdir -p "$target"
(cd "$modules" && cpio -pdm --quiet "$target" <"$wanted")
# Unpacked, because the whole is compressed, and not every program that loads modules can unpack them.
find "$target" -name '*.ko.xz' -exec xz -d {} +
cp "$modules"/modules.builtin "$modules"/modules.builtin.modinfo "$modules"/modules.order "$target/"
depmod -b "$root" "$version"
GUEST_COMP=$comp pack_root "$root" "$OUT/root.squashfs" -all-root -no-xattrs

note "initramfs"
initramfs=$WORK/initramfs
mkdir -p "$initramfs"/{modules,dev,proc,sys,root}
install -m 0755 "$(command -v busybox)" "$initramfs/busybox"
install -m 0755 "$here/initramfs-init" "$initramfs/init"
number=100
for module in virtio_pci virtio_blk virtio_scsi ahci nvme vmd sd_mod mmc_block sdhci_pci sdhci_acpi xhci_pci ehci_pci uas \
    usb_storage squashfs; do
    modprobe -d "$OUT/kernel" -S "$version" --show-depends "$module" || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    name=$(basename "$file")
    case $file in
    *.xz) xz -dc "$file" >"$initramfs/modules/$number-${name%.xz}" ;;
    *) cp "$file" "$initramfs/modules/$number-$name" ;;
    esac
    number=$((number + 1))
done
(cd "$initramfs" && find . | sort | cpio -o -H newc --quiet -R 0:0) >"$OUT/initramfs.cpio"

note "guest OSes"
store=$OUT/operatingsystems
cat >"$WORK/mounts" <<'MOUNTS'
mounts {
  image_file: "etc"
  mount_point: "/data"
  fs_type: "ext4"
  mount_type: EMPTY
  min_size: 10
  max_size: 16384
  def_size: 10
}
MOUNTS
"$IMAGES_DIR/busybox/build.sh" "$store" --name gyroidos-coreos --description "Management container" \
    --tool "$programs/control" --extra-mounts "$WORK/mounts" "${sign[@]}" >/dev/null
"$IMAGES_DIR/busybox/build.sh" "$store" "${sign[@]}" >/dev/null

note "data partition"
cml=$WORK/data/cml
mkdir -p "$cml"/{tokens,containers,keys} "$WORK/data/logs"
chmod 0700 "$cml"/{tokens,containers,keys}
cp "$pki/ssig_rootca.cert" "$cml/tokens/"
cp -r "$store" "$cml/operatingsystems"
if [ -n "$more" ]; then cp -r "$more/." "$cml/operatingsystems/"; fi
chmod 0700 "$cml/operatingsystems"
core0=$cml/containers/00000000-0000-0000-0000-000000000000
cp "$here/core0.conf" "$core0.conf"
"$IMAGES_DIR/sign_config.sh" -c "$core0.conf" -k "$pki/ssig_cml.key" --cert "$pki/ssig_cml.cert"
cp "${device_conf:-$here/device.conf}" "$cml/device.conf"
chown -R 0:0 "$WORK/data"

note "disk"
# In MiB: the beginning and the end of a GPT disk are its tables.
esp_size=96
root_size=$((($(stat -c %s "$OUT/root.squashfs") >> 20) + 1))
data_start=$((1 + esp_size + root_size))
image=$WORK/disk.img
truncate -s "$((data_start + data_size + 1))M" "$image"
sfdisk --quiet "$image" <<PARTITIONS
label: gpt
start=1MiB, size=${esp_size}MiB, type=U, name=cml-esp
size=${root_size}MiB, type=linux, name=cml-root
size=${data_size}MiB, type=linux, name=cml-data
PARTITIONS
# The number of the partition as the table has it: behind two blocks, the second entry of 128 bytes, behind its type.
root_number=$(od -An -tx1 -j $((1024 + 128 + 16)) -N 16 "$image" | tr -d ' \n')
uki=$WORK/BOOTX64.EFI
printf 'ID=cml\nNAME="Container management layer"\nPRETTY_NAME="Container management layer"\n' >"$WORK/os-release"
# What the kernel is told: on real hardware both consoles may be there.
printf 'console=tty0 console=ttyS0 quiet panic=10 cml.root=%s\0' "$root_number" >"$WORK/cmdline"
objcopy \
    --add-section .osrel="$WORK/os-release" --change-section-vma .osrel=0x20000 \
    --add-section .cmdline="$WORK/cmdline" --change-section-vma .cmdline=0x30000 \
    --add-section .linux="$OUT/kernel/boot/vmlinuz-$version" --change-section-vma .linux=0x2000000 \
    --add-section .initrd="$OUT/initramfs.cpio" --change-section-vma .initrd=0x5000000 \
    "$OUT/linuxx64.efi.stub" "$uki"
truncate -s "${esp_size}M" "$WORK/esp"
mformat -i "$WORK/esp" -F -v CML ::
mmd -i "$WORK/esp" ::/EFI ::/EFI/BOOT
mcopy -i "$WORK/esp" "$uki" ::/EFI/BOOT/BOOTX64.EFI
truncate -s "${data_size}M" "$WORK/data.ext4"
mke2fs -q -t ext4 -L cml-data -O encrypt -d "$WORK/data" "$WORK/data.ext4"
# place FILE MIB
place() {
    dd if="$1" of="$image" bs=1M seek="$2" conv=notrunc,sparse status=none
}
place "$WORK/esp" 1
place "$OUT/root.squashfs" "$((1 + esp_size))"
place "$WORK/data.ext4" "$data_start"
mv -f "$image" "$OUT/disk.img"
note "$OUT/disk.img is ready"
