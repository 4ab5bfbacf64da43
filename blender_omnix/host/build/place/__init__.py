# SPDX-License-Identifier: GPL-3.0-or-later
"""A relightable place from a map set: one collection, built, rebuilt and removed as a whole.

The collection `OmniX <name>` holds an empty at the viewpoint and, parented to it, the surface and
(where the place is enclosed) a hull. Everything below the empty is in the capture frame of the
panorama, so moving, turning or scaling the empty moves the place. The scene's world shows through
wherever the panorama shows the sky, and is another only where it is asked for (`use_as_world`).
"""

from __future__ import annotations

from ...identity import is_place
from .adjusting import start_adjusting
from .building import (
    build_place,
    check_map,
    finish_adjusting,
    rebuild,
    reload_maps,
    replace_map,
)
from .cutting import Settings, settings_of
from .following import (
    follow_world,
    has_lost_world,
    is_following,
    shared_strength,
    stop_following,
    use_as_world,
)
from .record import (
    changed_maps,
    control,
    damage,
    find,
    folder_of,
    images_of,
    linked_from,
    made_from,
    name_of,
    own_maps,
    panel_controls,
    part,
    places,
    refuse_linked,
    return_unpacked,
    set_folder,
    source_of,
    viewpoint,
)
from .shading import ORIGINAL, RELIGHT, set_mode
from .uses import (
    add_camera,
    has_collision,
    is_shadow_catcher,
    mark_asset,
    remove,
    save_maps,
    scale,
    set_collision,
    set_shadow_catcher,
    show_map,
    shown_map,
)
