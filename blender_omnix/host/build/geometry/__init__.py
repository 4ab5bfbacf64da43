# SPDX-License-Identifier: GPL-3.0-or-later
"""The place as quads and triangles: depth and normals in, layers of a shell out (plain numpy).

A place has five layers:

* the visible surface, its corners welded inside a surface and split at depth jumps;
* the background, grown behind the near side of every jump, so that a step aside shows what is
  plausibly there instead of a hole;
* the backs of slim things such as lamp shades and pillars, so that no light passes through them
  from where nobody has seen them;
* where it is enclosed, panes in its openings, which go on behind what stands before them;
* where it is enclosed, a hull outside of all, which lets no light in except through the openings.
"""

from __future__ import annotations

from .faces import BACK, BACKGROUND, HULL, PANE, VISIBLE, Shell
from .grid import FAR, Grid, joins, reduce
from .openings import is_enclosed
from .shells import lamp_cells, shells
from .trenches import meet
