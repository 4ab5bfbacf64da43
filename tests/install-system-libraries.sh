#!/usr/bin/env bash
# The shared libraries Blender's Python module links to. On Debian as root they are installed;
# elsewhere what is missing is named and the set-up goes on, for other systems name them otherwise.
set -euo pipefail
cd "$(dirname "$0")"
command -v dpkg-query >/dev/null || exit 0
missing=()
while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done < system-libraries.txt
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "Missing system libraries; run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
