#!/bin/bash
# Builds a Debian guest OS with systemd by debootstrap. Needs root, a mirror and some minutes.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

usage() {
    cat <<'USAGE'
usage: build.sh OUTDIR [OPTION...]

Writes a guest OS into OUTDIR, which is laid out like the daemon's operatingsystems/ directory:
NAME-VERSION/root.img, NAME-VERSION.conf and, if --key is given, its .sig and .cert.
Prints the path of the configuration.

  --suite NAME          Debian release (default: the one of this machine)
  --mirror URL          package mirror (default: the one this machine's apt uses)
  --arch NAME           architecture (default: the one of this machine)
  --include LIST        further packages, comma separated
  --dbus                with dbus
  --sources FILE        becomes /etc/apt/sources.list of the guest (default: empty)
  --probe FILE          program copied to /bin/probe
  --dry-run             check everything, print what would be run, build nothing
USAGE
    guest_options_usage
    cat <<'USAGE'
  -h, --help            this text
USAGE
}

GUEST_NAME=debian
GUEST_DESCRIPTION="Debian guest with systemd"
out='' suite='' mirror='' arch='' include=systemd-sysv sources='' probe='' dry_run=no
while [ $# -gt 0 ]; do
    case $1 in
    --suite) need_value "$1" $#; suite=$2; shift 2 ;;
    --mirror) need_value "$1" $#; mirror=$2; shift 2 ;;
    --arch) need_value "$1" $#; arch=$2; shift 2 ;;
    --include) need_value "$1" $#; include=$include,$2; shift 2 ;;
    --dbus) include=$include,dbus; shift ;;
    --sources) need_value "$1" $#; sources=$2; shift 2 ;;
    --probe) need_value "$1" $#; probe=$2; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
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
if [ -n "$sources" ]; then need_file "$sources"; fi
if [ -n "$probe" ]; then need_file "$probe"; fi
[[ $include =~ ^[a-z0-9.+-]+(,[a-z0-9.+-]+)*$ ]] || usage_error "'$include' is no list of packages"
need debootstrap debootstrap
need mksquashfs squashfs-tools

if [ -z "$suite" ]; then
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
    [ -n "$suite" ] || die "this machine does not tell its Debian release; use --suite"
fi
[[ $suite =~ ^[a-z0-9-]+$ ]] || usage_error "'$suite' is no release name"
if [ -z "$arch" ]; then
    need dpkg dpkg
    arch=$(dpkg --print-architecture)
fi
if [ -z "$mirror" ]; then
    need apt-get apt
    # shellcheck disable=SC2016 # apt's own placeholders
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' 2>/dev/null | awk -v s="$suite" '$2 == s && $3 == "main" && !seen++ { print $1 }')
    [ -n "$mirror" ] || die "apt on this machine knows no mirror for '$suite'; use --mirror"
fi
case $mirror in
http://* | https://* | file:/*) ;;
*) usage_error "'$mirror' is no mirror URL (http, https or file)" ;;
esac
# debootstrap fetches by wget, which does not read apt's proxy setting.
if [ -z "${http_proxy-}" ] && command -v apt-config >/dev/null; then
    proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    if [ -n "$proxy" ]; then export http_proxy=$proxy; fi
fi

command=(debootstrap --variant=minbase "--arch=$arch" "--include=$include" "$suite")
if [ "$dry_run" = yes ]; then
    printf '%s ' "${command[@]}"
    printf 'ROOT %s\n' "$mirror"
    exit 0
fi
[ "$(id -u)" -eq 0 ] || die "debootstrap needs root"

enter_outdir "$out"
root=$WORK/root
note "running debootstrap for $suite, this takes minutes"
"${command[@]}" "$root" "$mirror" >"$WORK/debootstrap.log" 2>&1 ||
    die "debootstrap failed: $(tail -n 5 "$WORK/debootstrap.log")"

# What differs from build to build or names the building machine goes. An empty machine-id makes
# systemd give every container its own at first start.
rm -rf -- "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/var/cache/ldconfig/aux-cache "$root"/var/lib/dbus/machine-id "$root"/debootstrap
rm -rf -- "${root:?}"/dev/* "$root"/run/* "$root"/tmp/* "$root"/proc/* "$root"/sys/*
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
if [ -n "$sources" ]; then
    install -m 0644 -- "$sources" "$root/etc/apt/sources.list"
else
    : >"$root/etc/apt/sources.list"
fi
if [ -n "$probe" ]; then install -m 0755 -- "$probe" "$root/bin/probe"; fi
if [ -n "$GUEST_SEED" ]; then printf '%s\n' "$GUEST_SEED" >"$root/etc/image-seed"; fi
mkdir -p "$root/setup" "$root/data" "$root/lib/modules" "$root/lib/firmware"

# The runtime owns devices, clock and network; a terminal on a console it may not have would only
# be restarted again and again.
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-timesyncd.service \
    systemd-networkd-wait-online.service getty.target console-getty.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

pack_root "$root" "$WORK/root.img"
publish_guest "$WORK/root.img"
