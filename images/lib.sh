# shellcheck shell=bash
# shellcheck disable=SC2034 # most variables are for the scripts that source this file
# Helpers shared by the image recipes; sourced, never run.
#
# Owns: messages, the per-directory lock and work directory, the options every guest recipe has,
# packing of a root file system and writing of the GuestOS configuration (protocol.md 2.5, 1.6, 6.1).

IMAGES_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# Every time stamp in an image gets this value, so that equal input makes equal bytes.
# 2020-01-01T00:00:00Z unless the caller sets the customary variable.
IMAGE_EPOCH=${SOURCE_DATE_EPOCH:-1577836800}
# mksquashfs refuses to run when both this variable and -mkfs-time/-all-time are given.
unset SOURCE_DATE_EPOCH
export LC_ALL=C TZ=UTC

die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

note() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# usage_error MESSAGE: 2 tells a wrong command line from a failed build (1).
usage_error() {
    printf '%s: error: %s (see --help)\n' "${0##*/}" "$*" >&2
    exit 2
}

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null || die "program '$1' not found; install the package '$2'"
}

# need_value OPTION REMAINING_ARGUMENTS
need_value() {
    [ "$2" -ge 2 ] || usage_error "option $1 needs a value"
}

need_file() {
    if ! [ -f "$1" ] || ! [ -r "$1" ]; then die "cannot read the file '$1'"; fi
}

# enter_outdir DIR: creates DIR, locks it against a second builder until this process ends and
# makes the work directory $WORK in it. Inside, so that the final renames stay on one file system.
enter_outdir() {
    mkdir -p -- "$1" || die "cannot create the output directory '$1'"
    OUT=$(cd -- "$1" && pwd)
    exec {OUT_LOCK}<"$OUT"
    flock "$OUT_LOCK" || die "cannot lock the output directory '$OUT'"
    WORK=$(mktemp -d "$OUT/.work.XXXXXX") || die "cannot write into '$OUT'"
    trap 'rm -rf -- "$WORK"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# text_string VALUE: a quoted string of the strict text format. Only escapes that the parser is
# known to accept are used; raw UTF-8 is accepted, control characters are not worth supporting.
text_string() {
    local s=$1
    case $s in
    *[[:cntrl:]]*) die "control character in the value '$s'" ;;
    esac
    s=${s//\\/\\\\}
    s=${s//\"/\\\"}
    printf '"%s"' "$s"
}

# need_strict_text FILE: refuses what makes the daemon reject the whole configuration later on.
need_strict_text() {
    need_file "$1"
    if grep -q $'\r' -- "$1"; then
        die "'$1' has DOS line ends, which the configuration format forbids"
    fi
    if grep -Eq '^[[:space:]]*(#|//)' -- "$1"; then
        die "'$1' has comments, which the configuration format forbids"
    fi
}

# Directory part of a download URL, by machine (protocol.md 6.6).
hardware_name() {
    case $1 in
    x86_64 | amd64) echo x86 ;;
    aarch64 | arm64) echo arm ;;
    riscv64) echo riscv ;;
    *) die "no hardware name is defined for the machine '$1'; use --hardware" ;;
    esac
}

GUEST_NAME=
GUEST_VERSION=1
GUEST_HARDWARE=$(hardware_name "$(uname -m)")
GUEST_DESCRIPTION=
GUEST_MOUNT_TYPE=SHARED_RW
GUEST_EXTRA_MOUNTS=
GUEST_INIT=/sbin/init
GUEST_INIT_PARAMS=()
GUEST_APPEND=
GUEST_SHA1=no
GUEST_SEED=
GUEST_COMP=gzip
SIGN_KEY=
SIGN_CERTS=()
SIGN_PASS=

guest_options_usage() {
    cat <<'USAGE'
  --name NAME           name of the guest OS
  --version N           version, a number above 0 (default 1)
  --hardware NAME       hardware field (default by machine: x86, arm, riscv)
  --description TEXT    English description
  --mount-type TYPE     of the root image: SHARED_RW (default), SHARED or OVERLAY_RO
  --extra-mounts FILE   'mounts { ... }' blocks put behind the root mount
  --init PATH           init_path (default /sbin/init)
  --init-param TEXT     one argument for init; may be repeated
  --append FILE         text put at the end of the configuration
  --with-sha1           also write image_sha1, which older daemons insist on
  --seed TEXT           stored as /etc/image-seed: another text makes another image
  --comp NAME           squashfs compressor: gzip (default), lz4, xz, zstd
  --key FILE            sign with this private key
  --cert FILE           certificate of the key; repeat for intermediates
  --pass-file FILE      pass phrase of the key, first line of FILE
USAGE
}

# guest_option ARGS...: takes one option of the list above from the front and sets CONSUMED to
# the number of words used; returns 1 if it is none of them.
guest_option() {
    CONSUMED=2
    case $1 in
    --with-sha1)
        GUEST_SHA1=yes
        CONSUMED=1
        return 0
        ;;
    --name | --version | --hardware | --description | --mount-type | --extra-mounts | --init | \
        --init-param | --append | --seed | --comp | --key | --cert | --pass-file) need_value "$1" $# ;;
    *) return 1 ;;
    esac
    case $1 in
    --name) GUEST_NAME=$2 ;;
    --version) GUEST_VERSION=$2 ;;
    --hardware) GUEST_HARDWARE=$2 ;;
    --description) GUEST_DESCRIPTION=$2 ;;
    --mount-type) GUEST_MOUNT_TYPE=$2 ;;
    --extra-mounts) GUEST_EXTRA_MOUNTS=$2 ;;
    --init) GUEST_INIT=$2 ;;
    --init-param) GUEST_INIT_PARAMS+=("$2") ;;
    --append) GUEST_APPEND=$2 ;;
    --seed) GUEST_SEED=$2 ;;
    --comp) GUEST_COMP=$2 ;;
    --key) SIGN_KEY=$2 ;;
    --cert) SIGN_CERTS+=("$2") ;;
    --pass-file) SIGN_PASS=$2 ;;
    esac
}

# Called after the command line is read, before anything is written.
check_guest_options() {
    [[ $GUEST_NAME =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] ||
        usage_error "'$GUEST_NAME' is no usable name: letters, digits, '.', '_' and '-' only"
    # 0 would be stored but never be usable (protocol.md 6.4); the upper bound is that of uint64,
    # kept to 19 digits so that the check needs no big numbers.
    [[ $GUEST_VERSION =~ ^[1-9][0-9]{0,18}$ ]] ||
        usage_error "'$GUEST_VERSION' is no usable version: a number from 1 with at most 19 digits"
    [[ $GUEST_HARDWARE =~ ^[A-Za-z0-9._-]+$ ]] || usage_error "'$GUEST_HARDWARE' is no hardware name"
    case $GUEST_MOUNT_TYPE in
    SHARED_RW | SHARED | OVERLAY_RO) ;;
    *) usage_error "mount type '$GUEST_MOUNT_TYPE' does not fit a root image; use SHARED_RW, SHARED or OVERLAY_RO" ;;
    esac
    case $GUEST_COMP in
    gzip | lz4 | xz | zstd) ;;
    *) usage_error "unknown compressor '$GUEST_COMP'" ;;
    esac
    case $GUEST_INIT in
    /*) ;;
    *) usage_error "the init path '$GUEST_INIT' must be absolute" ;;
    esac
    if [ -n "$SIGN_KEY" ] && [ ${#SIGN_CERTS[@]} -eq 0 ]; then
        usage_error "--key needs --cert"
    fi
    if [ -z "$SIGN_KEY" ] && [ ${#SIGN_CERTS[@]} -gt 0 ]; then
        usage_error "--cert needs --key"
    fi
    if [ -n "$GUEST_EXTRA_MOUNTS" ]; then need_strict_text "$GUEST_EXTRA_MOUNTS"; fi
    if [ -n "$GUEST_APPEND" ]; then need_strict_text "$GUEST_APPEND"; fi
    if [ -n "$SIGN_KEY" ]; then need_file "$SIGN_KEY"; fi
}

# pack_root ROOTFS IMAGE [MKSQUASHFS_OPTION...]
pack_root() {
    local rootfs=$1 image=$2
    shift 2
    # No duplicate of the building machine's uid, time or NFS export table may get in.
    mksquashfs "$rootfs" "$image" -noappend -no-progress -quiet -no-exports -comp "$GUEST_COMP" \
        -reproducible -mkfs-time "$IMAGE_EPOCH" -all-time "$IMAGE_EPOCH" "$@" >"$WORK/mksquashfs.log" 2>&1 ||
        die "mksquashfs failed: $(cat "$WORK/mksquashfs.log")"
}

# write_guest_conf IMAGE CONF: field order is ascending by number, as the daemon prints it.
write_guest_conf() {
    local image=$1 conf=$2 param size sha256 sha1
    size=$(stat -c %s -- "$image")
    sha256=$(sha256sum <"$image" | cut -d' ' -f1)
    {
        printf 'name: %s\n' "$(text_string "$GUEST_NAME")"
        printf 'hardware: %s\n' "$(text_string "$GUEST_HARDWARE")"
        printf 'version: %s\n' "$GUEST_VERSION"
        printf 'mounts {\n'
        printf '  image_file: "root"\n'
        printf '  mount_point: "/"\n'
        printf '  fs_type: "squashfs"\n'
        printf '  mount_type: %s\n' "$GUEST_MOUNT_TYPE"
        printf '  image_size: %s\n' "$size"
        if [ "$GUEST_SHA1" = yes ]; then
            sha1=$(sha1sum <"$image" | cut -d' ' -f1)
            printf '  image_sha1: "%s"\n' "$sha1"
        fi
        printf '  image_sha2_256: "%s"\n' "$sha256"
        printf '}\n'
        if [ -n "$GUEST_EXTRA_MOUNTS" ]; then text_file "$GUEST_EXTRA_MOUNTS"; fi
        printf 'init_path: %s\n' "$(text_string "$GUEST_INIT")"
        for param in "${GUEST_INIT_PARAMS[@]}"; do
            printf 'init_param: %s\n' "$(text_string "$param")"
        done
        printf 'description {\n  en: %s\n}\n' "$(text_string "$GUEST_DESCRIPTION")"
        if [ -n "$GUEST_APPEND" ]; then text_file "$GUEST_APPEND"; fi
    } >"$conf"
}

# text_file FILE: its content with exactly one line end at the end.
text_file() {
    printf '%s\n' "$(cat -- "$1")"
}

# publish_guest IMAGE: puts the image and its (signed) configuration into $OUT, laid out like the
# guest OS store (protocol.md 6.1), and prints the path of the configuration.
publish_guest() {
    local image=$1 base=$GUEST_NAME-$GUEST_VERSION cert
    local new=$WORK/$base.conf args=()
    write_guest_conf "$image" "$new"
    chmod 0644 "$image" "$new"
    if [ -n "$SIGN_KEY" ]; then
        args=(-c "$new" -k "$SIGN_KEY")
        for cert in "${SIGN_CERTS[@]}"; do args+=(--cert "$cert"); done
        if [ -n "$SIGN_PASS" ]; then args+=(-p "$SIGN_PASS"); fi
        # An unchanged configuration keeps its signature, so that a second run changes nothing.
        if cmp -s "$new" "$OUT/$base.conf" && [ -f "$OUT/$base.sig" ] && [ -f "$OUT/$base.cert" ]; then
            cp -p -- "$OUT/$base.sig" "$OUT/$base.cert" "$WORK/"
        fi
        "$IMAGES_DIR/sign_config.sh" "${args[@]}" || die "signing '$base.conf' failed"
    fi
    mkdir -p -- "$OUT/$base"
    chmod 0755 "$OUT/$base"
    # The old signature goes first and the new one comes last: at no moment does a signature lie
    # beside a configuration it does not belong to.
    if ! cmp -s "$new" "$OUT/$base.conf"; then
        rm -f -- "$OUT/$base.sig" "$OUT/$base.cert"
    fi
    mv -f -- "$image" "$OUT/$base/root.img"
    mv -f -- "$new" "$OUT/$base.conf"
    if [ -n "$SIGN_KEY" ]; then
        mv -f -- "$WORK/$base.cert" "$OUT/$base.cert"
        mv -f -- "$WORK/$base.sig" "$OUT/$base.sig"
    fi
    printf '%s\n' "$OUT/$base.conf"
}
