#!/bin/sh
# device.sh OUT: builds the bootable device for the tests, whose guest OSes are signed as those of the other tests. Its
# programs are those of `make device`: they are what is tested, and in an emulated machine their speed counts.
# They and the kit of the tests are there already; CML_PROGRAMS says where the programs are.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
cd "$project"
mkdir -p "$1"
out=$(cd "$1" && pwd)
target=$(realpath "${CARGO_TARGET_DIR:-target}")
kit=$target/debug/test-kit

# The suite wants a kernel among the guest OSes; one that is only stored will do.
store=$out/more
rm -rf "$store"
mkdir -p "$store/kernel-1"
echo "a kernel, as far as the store can tell" >"$store/kernel-1/root.img"
{
    printf 'name: "kernel"\nhardware: "x86"\nversion: 1\nmounts {\n  image_file: "root"\n  mount_point: "/"\n'
    printf '  fs_type: "squashfs"\n  mount_type: STORE_ONLY\n'
    printf '  image_size: %s\n' "$(stat -c %s "$store/kernel-1/root.img")"
    printf '  image_sha2_256: "%s"\n}\n' "$(sha256sum <"$store/kernel-1/root.img" | cut -d' ' -f1)"
    printf 'description {\n  en: "Kernel"\n}\n'
} >"$store/kernel-1.conf"
images/sign_config.sh -c "$store/kernel-1.conf" -k "$kit/pki/ssig_cml.key" --cert "$kit/pki/ssig_cml.cert"

images/device/build.sh "$out" --programs "${CML_PROGRAMS:-out/programs}" --pki "$kit/pki" --store "$store" \
    --device-conf "$here/device.conf" --data-size 1024 --comp lz4
