#!/bin/sh
# build.sh OUT: what run.sh boots: a kernel, an initramfs and a system of programs of this machine.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
exec 9>"$out/lock"
flock 9
PATH=$PATH:/usr/sbin:/sbin

"$here/../../images/device/kernel.sh" "$out" cloud-amd64
version=$(cat "$out/version")

# Everything that a new system would be made of.
stamp=$(cat "$here/build.sh" "$here/init" "$here/programs" "$out/version" /var/lib/dpkg/status | sha256sum)
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -f "$out/stamp"

system=$out/system
rm -rf "$system"
mkdir -p "$system/usr/bin" "$system/usr/lib" "$system/usr/lib64" "$system/etc/ssl" "$system/root" "$system/var/tmp"
for name in dev proc sys run tmp; do mkdir "$system/$name"; done
for name in bin lib lib64; do ln -s "usr/$name" "$system/$name"; done
for name in sbin usr/sbin; do ln -s /usr/bin "$system/$name"; done

# copy PROGRAM...: into the system, with the libraries that they need.
copy() {
    for program in "$@"; do
        found=$(command -v "$program") || { echo "no $program" >&2; exit 1; }
        cp -L "$found" "$system/usr/bin/$program"
    done
    for program in "$@"; do ldd "$(command -v "$program")" 2>/dev/null || true; done |
        grep -o '/[^ ]*' | sort -u | while read -r library; do
        at=$system/usr/${library#/}
        at=$(echo "$at" | sed 's|/usr/usr/|/usr/|')
        mkdir -p "$(dirname "$at")"
        cp -L "$library" "$at"
    done
}
cp -L "$(command -v busybox)" "$system/usr/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$system/usr/bin/$applet"
done
# The real ones in place of busybox's where there are both.
programs=$(sed 's/#.*//' "$here/programs")
for program in $programs; do rm -f "$system/usr/bin/$program"; done
# shellcheck disable=SC2086 # a list of words
copy $programs
ln -sf dash "$system/usr/bin/sh"
for name in modprobe insmod lsmod rmmod; do ln -sf kmod "$system/usr/bin/$name"; done
# Loaded when a thread ends or a key is read: no program names them.
libraries=usr/lib/$(uname -m)-linux-gnu
cp -L "/$libraries/libgcc_s.so.1" "$system/$libraries"
cp -rL "/$libraries/ossl-modules" "$system/$libraries"
cp /etc/mke2fs.conf "$system/etc"
cp /etc/ssl/openssl.cnf "$system/etc/ssl"
mkdir -p "$system/usr/lib/ssl"
ln -s /etc/ssl/openssl.cnf "$system/usr/lib/ssl/openssl.cnf"
echo 'root:x:0:0:root:/root:/bin/sh' >"$system/etc/passwd"
echo 'root:x:0:' >"$system/etc/group"
cp -r "$out/kernel/lib/modules" "$system/usr/lib/modules"
install "$here/init" "$system/usr/bin/vm-init"
mksquashfs "$system" "$out/system.squashfs" -comp zstd -Xcompression-level 3 -all-root -noappend \
    -quiet -no-progress

# The initramfs only finds the system.
initramfs=$out/initramfs
rm -rf "$initramfs"
mkdir -p "$initramfs/modules" "$initramfs/dev" "$initramfs/sys"
install "$(command -v busybox)" "$initramfs/busybox"
install "$here/init" "$initramfs/init"
number=10
for module in virtio_blk squashfs overlay; do
    modprobe -d "$out/kernel" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    name=$(basename "$file")
    case $file in
    *.xz) xz -dc "$file" >"$initramfs/modules/$number-${name%.xz}" ;;
    *) cp "$file" "$initramfs/modules/$number-$name" ;;
    esac
    number=$((number + 1))
done
(cd "$initramfs" && find . | cpio -o -H newc --quiet) >"$out/initramfs.cpio"
rm -rf "$system" "$initramfs"
echo "$stamp" >"$out/stamp"
