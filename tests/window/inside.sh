#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What run.sh does inside the chroot: a virtual screen, an installed extension, a session.
set -euo pipefail
repository=$1 out=$2 python=$3
export HOME=$(mktemp -d)
export LIBGL_ALWAYS_SOFTWARE=1 DISPLAY=:87
blender --command extension install-file --repo user_default --enable "$out/extension.zip"

Xvfb $DISPLAY -screen 0 1600x1000x24 +extension GLX -nolisten tcp >"$out/xvfb.log" 2>&1 &
screen=$!
trap 'kill $screen; rm -rf "$HOME"' EXIT
timeout 540 blender --window-geometry 0 0 1600 1000 --python-exit-code 3 \
    --python "$repository/tests/window/session.py" -- "$out" "$python" >"$out/blender.log" 2>&1 || {
    tail -40 "$out/blender.log" >&2
    exit 1
}
