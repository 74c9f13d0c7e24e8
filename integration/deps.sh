#!/bin/sh
# Installs the Debian packages named, if they are missing. Prints nothing when there is nothing to do.
set -eu

missing=
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "these packages are missing; install them as root:$missing" >&2
    exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Twice: an interrupted earlier run or a mirror that just changes costs one attempt.
for attempt in 1 2; do
    apt-get update -qq || continue
    # shellcheck disable=SC2086 # a list of words
    if apt-get install -qqy --no-install-recommends $missing >/dev/null; then exit 0; fi
    echo "installation attempt $attempt failed" >&2
done
exit 1
