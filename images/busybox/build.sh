#!/bin/bash
# Builds a minimal guest OS around a static busybox; equal input gives equal bytes.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

usage() {
    cat <<'USAGE'
usage: build.sh OUTDIR [OPTION...]

Writes a guest OS into OUTDIR, which is laid out like the daemon's operatingsystems/ directory:
NAME-VERSION/root.img, NAME-VERSION.conf and, if --key is given, its .sig and .cert.
Prints the path of the configuration.

  --probe FILE          static program copied to /bin/probe
  --tool FILE           static program copied to /usr/sbin; may be repeated
  --busybox FILE        static busybox (default: the one found in PATH)
USAGE
    guest_options_usage
    cat <<'USAGE'
  -h, --help            this text
USAGE
}

GUEST_NAME=busybox
GUEST_DESCRIPTION="Minimal busybox guest"
out='' probe='' busybox='' tools=()
while [ $# -gt 0 ]; do
    case $1 in
    --probe) need_value "$1" $#; probe=$2; shift 2 ;;
    --tool) need_value "$1" $#; tools+=("$2"); shift 2 ;;
    --busybox) need_value "$1" $#; busybox=$2; shift 2 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        if guest_option "$@"; then
            shift "$CONSUMED"
        elif [[ $1 == -* ]] || [ -n "$out" ]; then
            usage_error "unexpected argument '$1'"
        else
            out=$1
            shift
        fi
        ;;
    esac
done
[ -n "$out" ] || usage_error "no output directory given"
check_guest_options
need mksquashfs squashfs-tools
if [ -z "$busybox" ]; then
    need busybox busybox-static
    busybox=$(command -v busybox)
fi

# need_static FILE: a program with an interpreter would not start in an image without libraries.
need_static() {
    need_file "$1"
    need readelf binutils
    local headers
    headers=$(readelf -lW -- "$1" 2>/dev/null) || die "'$1' is no ELF program"
    if grep -q 'INTERP' <<<"$headers"; then
        die "'$1' is dynamically linked; the guest needs a static program"
    fi
}
need_static "$busybox"
if [ -n "$probe" ]; then need_static "$probe"; fi
for tool in "${tools[@]}"; do need_static "$tool"; done

enter_outdir "$out"
root=$WORK/root
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
umask 022

# The empty ones are mount points: of the runtime (runtime.md 3.7), of setup mode (/setup) and of
# images a configuration may add; a read-only root (SHARED) cannot get them later.
mkdir "$root"
(cd "$root" && mkdir -p bin sbin usr/bin usr/sbin lib/modules lib/firmware dev etc/init.d proc sys \
    run media mnt root setup data opt home srv tmp var/log var/lib var/tmp var/volatile)
chmod 0700 "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"
ln -s ../run "$root/var/run"

install -m 0755 -- "$busybox" "$root/bin/busybox"
"$root/bin/busybox" --list-full >"$WORK/applets" || die "'$busybox' does not list its applets"
# linuxrc is init under the only name that also runs when it is not process 1.
for applet in init linuxrc sh poweroff; do
    grep -Eq "(^|/)$applet\$" "$WORK/applets" || die "'$busybox' lacks the applet '$applet'"
done
while read -r applet; do
    if [ ! -e "$root/$applet" ]; then ln -s /bin/busybox "$root/$applet"; fi
done <"$WORK/applets"
for tool in "${tools[@]}"; do
    rm -f -- "$root/usr/sbin/$(basename -- "$tool")"
    install -m 0755 -- "$tool" "$root/usr/sbin/"
done
if [ -n "$probe" ]; then install -m 0755 -- "$probe" "$root/bin/probe"; fi

(cd "$here/rootfs" && find . -type f -printf '%P\n') >"$WORK/files"
while read -r file; do
    mode=0644
    case $file in
    etc/init.d/* | *.script) mode=0755 ;;
    esac
    install -D -m "$mode" -- "$here/rootfs/$file" "$root/$file"
done <"$WORK/files"
# Target for a bind mount or for a guest service that learns the name server later.
: >"$root/etc/resolv.conf"
if [ -n "$GUEST_SEED" ]; then printf '%s\n' "$GUEST_SEED" >"$root/etc/image-seed"; fi
printf 'ID=%s\nVERSION_ID=%s\nPRETTY_NAME="%s %s"\n' \
    "$GUEST_NAME" "$GUEST_VERSION" "$GUEST_NAME" "$GUEST_VERSION" >"$root/etc/os-release"

# The configured init must be there unless a mount added by the caller brings it.
if [ -z "$GUEST_EXTRA_MOUNTS" ] && [ ! -e "$root$GUEST_INIT" ] && [ ! -L "$root$GUEST_INIT" ]; then
    note "warning: the image has no '$GUEST_INIT'"
fi

pack_root "$root" "$WORK/root.img" -all-root -no-xattrs
publish_guest "$WORK/root.img"
