#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The extension in a real Blender window: Debian's Blender in a chroot, on a virtual screen, with the
# slim zip installed and the worker on this project's environment. Needs root on Debian, debootstrap
# and about 2 GB; what it makes is kept for the next time in OMNIX_WINDOW_ROOT.
#
#   tests/window/run.sh [FOLDER]     screenshots go to FOLDER, new or empty (default: build/window)
set -euo pipefail
out=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../.."
repository=$PWD
if [ -z "$out" ]; then
    out=$repository/build/window
    rm -rf "$out"
elif [ -n "$(ls -A "$out" 2>/dev/null)" ]; then
    echo "$out is not empty; name a new folder for the screenshots." >&2
    exit 1
fi
root=$(realpath -m "${OMNIX_WINDOW_ROOT:-$HOME/.cache/blender_omnix/window}")
python=$repository/.venv/bin/python

if [ ! -e "$root/.ready" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase trixie "$root" >"$root.log"
    chroot "$root" apt-get update --quiet >>"$root.log"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet \
        --no-install-recommends blender xvfb libgl1-mesa-dri libgl1 libegl1 libglx-mesa0 \
        libegl-mesa0 xdotool imagemagick python3-numpy python3-requests python3-zstandard \
        >>"$root.log"
    touch "$root/.ready"
fi

mkdir -p "$out"
rm -f dist/blender_omnix-*-slim.zip
"$python" wheels/package.py --slim
cp dist/blender_omnix-*-slim.zip "$out/extension.zip"

# The worker's interpreter and its packages are seen at the same paths inside, in a mount namespace
# of its own that ends with the command.
export repository out root python
export interpreter=$("$python" -c 'import sys; print(sys.base_prefix)')
unshare --mount bash -euo pipefail -c '
    for folder in "$repository" "$interpreter" "$out"; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    exec chroot "$root" env -i PATH=/usr/bin:/bin "$repository/tests/window/inside.sh" \
        "$repository" "$out" "$python"
'
[ -s "$out/panel.png" ] || { echo "The window test made no screenshot." >&2; exit 1; }
echo "$out/panel.png"
