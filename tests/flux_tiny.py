# SPDX-License-Identifier: GPL-3.0-or-later
"""The recorded set of the official code on a tiny model, as the flux tests use it."""

from __future__ import annotations

from pathlib import Path

import torch

GOLDEN = Path(__file__).parent / "data" / "omnix-tiny"
MODEL = GOLDEN / "model"
ADAPTERS = GOLDEN / "adapters"

torch.set_num_threads(1)
