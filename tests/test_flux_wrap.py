# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import torch

from blender_omnix.engines.flux import wrap


def test_extend_repeats_the_first_columns():
    image = torch.arange(8.0).view(1, 1, 1, 8)
    assert wrap.extend(image, 3).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]


def test_blend_follows_the_published_ramp():
    left, right = torch.randn(1, 2, 3, 6), torch.randn(1, 2, 3, 6)
    middle = torch.randn(1, 2, 3, 10)
    blended = wrap.blend(torch.cat([left, middle, right], dim=-1), 6)
    for x in range(6):
        expected = right[..., x] * (1 - x / 6) + left[..., x] * (x / 6)
        torch.testing.assert_close(blended[..., x], expected)
    assert torch.equal(blended[..., 6:16], middle)
    assert torch.equal(blended[..., 16:], right)


def test_column_zero_comes_from_the_right_alone():
    image = wrap.extend(torch.zeros(1, 1, 2, 12), 4)
    image[..., -4:] = 1.0
    closed = wrap.close(image, 4)
    assert closed.shape == (1, 1, 2, 12)
    assert closed[0, 0, 0].tolist() == [1.0, 0.75, 0.5, 0.25] + [0.0] * 8


def test_blend_of_equal_copies_changes_nothing():
    image = torch.randn(1, 4, 5, 20, dtype=torch.float64)
    torch.testing.assert_close(wrap.close(wrap.extend(image, 6), 6), image)
