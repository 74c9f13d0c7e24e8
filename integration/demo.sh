#!/bin/bash
# The main job on this machine, explained step by step: a guest OS is built and signed, a daemon provisions
# itself, a container is created, started with its PIN, used, stopped and removed.
#
# usage: demo.sh PROGRAMS OUT
#   PROGRAMS  directory with cmld, control and cml-init
#   OUT       directory for everything the demonstration makes; what an earlier one made is replaced
set -euo pipefail

[ $# -eq 2 ] || { echo "usage: demo.sh PROGRAMS OUT" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "demo.sh: containers need root; run it as root" >&2; exit 1; }
project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
programs=$(cd -- "$1" && pwd)
mkdir -p -- "$2"
out=$(cd -- "$2" && pwd)
rm -rf -- "$out/pki" "$out/store" "$out/device"
# Short, as the path of a socket may have 107 bytes only.
run=$(mktemp -d /tmp/cml-demo.XXXXXX)
daemon=

finish() {
    status=$?
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" || true
    fi
    if [ "$status" -ne 0 ]; then
        echo
        echo "The demonstration failed. The end of the daemon's log:" >&2
        tail -n 20 "$out/cmld.log" >&2 || true
    fi
    rm -rf -- "$run"
}
trap finish EXIT

step() { printf '\n== %s\n' "$*"; }
# Shows a command and runs it.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}
control() { "$programs/control" -s "$run/cml-control" "$@"; }
# wait_for CONTAINER STATE
wait_for() {
    for _ in $(seq 600); do
        if control --format text state "$1" | grep -q "state: $2"; then return; fi
        sleep 0.1
    done
    echo "'$1' did not become $2" >&2
    return 1
}

step "A test PKI: the root that the device trusts, and a signer below it"
"$project/images/pki/make-pki.sh" "$out/pki" rsa:2048

step "A guest OS: busybox as a squashfs image, with a configuration that is signed"
"$project/images/busybox/build.sh" "$out/store" \
    --key "$out/pki/ssig_cml.key" --cert "$out/pki/ssig_cml.cert"

step "A device: the root of trust, the installed guest OS, device.conf"
mkdir -p "$out/device/base/tokens" "$out/device/conf"
cp "$out/pki/ssig_rootca.cert" "$out/device/base/tokens/"
cp -r "$out/store" "$out/device/base/operatingsystems"
cat >"$out/device/conf/device.conf" <<'CONF'
hostedmode: true
tpm_enabled: false
signed_configs: true
CONF
show cat "$out/device/conf/device.conf"

step "The daemon; on its first start it makes the device's softtoken, passphrase \`trustme\`"
"$programs/cmld" --base "$out/device/base" --conf "$out/device/conf" --logs "$out/device/logs" \
    --run "$run" 2>"$out/cmld.log" &
daemon=$!
for _ in $(seq 600); do
    kill -0 "$daemon" 2>/dev/null || { echo "cmld ended at once" >&2; exit 1; }
    if [ -S "$run/cml-control" ] && [ -f "$out/device/base/tokens/device.tok" ]; then break; fi
    sleep 0.1
done
echo "cmld runs as process $daemon"

step "A container, from a template in protobuf text, signed because device.conf demands it"
cat >"$out/web.conf" <<'CONF'
name: "web"
guest_os: "busybox"
guestos_version: 1
color: 4278255615
token_type: SOFT
CONF
show cat "$out/web.conf"
"$project/images/sign_config.sh" -c "$out/web.conf" -k "$out/pki/ssig_cml.key" \
    --cert "$out/pki/ssig_cml.cert"
show control create "$out/web.conf" "$out/web.sig" "$out/web.cert"

step "Started with the PIN, here from a pipe; a wrong one does not start it"
printf '\n$ echo wrong | control start web\n'
if echo wrong | control start web; then exit 1; fi
printf '\n$ echo trustme | control start web\n'
for _ in $(seq 100); do
    # The token of a new device takes a moment; the daemon says so until then.
    if answer=$(echo trustme | control start web 2>&1); then break; fi
    sleep 0.2
done
echo "$answer"
wait_for web RUNNING

step "Commands inside: another kernel name space for everything, root only in there"
show control run web uname -a
show control run web id
show control run web ps

step "What the daemon says about it"
show control --format table list
show control state web
show control config web

step "Stopped, politely and with the PIN, and removed"
printf '\n$ echo trustme | control stop web\n'
echo trustme | control stop web
wait_for web STOPPED
show control --format table list
show control remove web
show control list

step "The daemon ends"
kill "$daemon"
wait "$daemon"
daemon=
echo "All done. What was made is in $out; the daemon's log is $out/cmld.log"
