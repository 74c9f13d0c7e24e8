#!/bin/sh
# kernel.sh OUT [FLAVOUR]: the newest Debian kernel for this release, with its modules, in OUT; nothing is installed.
#
# That of backports, because the kernel of Debian 12 does not know mapped owners on squashfs and tmpfs. FLAVOUR is
# "amd64", which knows all kinds of hardware (default), or "cloud-amd64", which is half as large and knows that of
# virtual machines. The status is 69 if Debian cannot be asked: there is no network, or this is another system.
set -eu

out=$1
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
flavour=linux-image-${2:-amd64}

# Package lists of our own, so that those of the machine stay as they are; from the mirror that the machine uses.
mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial"
# shellcheck disable=SC2016 # words of apt
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
keys=/usr/share/keyrings/debian-archive-keyring.gpg
for suite in "$release" "$release-backports"; do
    echo "deb [signed-by=$keys] ${mirror:-http://deb.debian.org/debian} $suite main"
done >"$out/apt/sources.list"
cat >"$out/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$out/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$out/apt/lists";
Dir::Cache "$out/apt/cache";
APT::Sandbox::User "root";
CONF
if ! { [ -f "$keys" ] && apt-get -c "$out/apt/apt.conf" -o APT::Update::Error-Mode=any update -qq; }; then
    echo "Debian's list of kernels cannot be had" >&2
    [ -f "$out/version" ] && exit 0
    exit 69
fi
package=$(apt-cache -c "$out/apt/apt.conf" depends "$flavour/$release-backports" |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
[ -n "$package" ] || { echo "Debian has no kernel for $release-backports" >&2; exit 1; }
version=${package#linux-image-}
[ "$(cat "$out/version" 2>/dev/null)" = "$version" ] && exit 0

rm -rf "$out/kernel" "$out/version"
mkdir -p "$out/kernel"
(cd "$out/apt" && rm -f ./*.deb && apt-get -c apt.conf download -qq "$package")
dpkg -x "$out"/apt/*.deb "$out/kernel"
depmod -b "$out/kernel" "$version"

# The program inside: QEMU starts it at once, while unpacking it in the emulated machine takes seconds. Where it
# is stands in the header (Documentation/arch/x86/boot.rst); behind it there are four bytes for its size.
image=$out/kernel/boot/vmlinuz-$version
field() {
    od -An -v -t "u$2" -j "$1" -N "$2" "$image" | tr -d ' '
}
start=$((($(field 497 1) + 1) * 512 + $(field 584 4)))
length=$(($(field 588 4) - 4))
payload() {
    tail -c "+$((start + 1))" "$image" | head -c "$length"
}
case $(payload | head -c 4 | od -An -tx1 | tr -d ' ') in
28b52ffd) payload | zstd -dc ;;
fd377a58) payload | xz -dc ;;
02214c18) payload | lz4 -dc ;;
*) echo "$image: unknown compression" >&2; exit 1 ;;
esac >"$out/vmlinux"
readelf -h "$out/vmlinux" >/dev/null
echo "$version" >"$out/version"
