"""common.io.drawing: overlays and contact sheets."""

import os

import numpy as np
import pytest
import torch

from common.io.drawing import COLOURS, GT, PREDICTED, overlay
from common.io import contact_sheet, read_image, write_image


def test_the_colour_map_gets_ever_lighter():
    assert COLOURS.shape == (256, 3) and COLOURS.dtype == np.uint8
    assert (np.diff(COLOURS[::2] @ [0.2126, 0.7152, 0.0722]) > 0).all()


def lab(rgb):
    """sRGB from 0 to 255 → CIELAB, white point D65."""
    x = np.asarray(rgb) / 255
    x = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    xyz = x @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = np.moveaxis(xyz / [0.9505, 1, 1.089], -1, 0)
    x, y, z = (np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def test_the_colour_map_is_perceptually_uniform():
    """Equal steps look equal: ΔE of CIELAB is nearly constant, and so is the step of lightness."""
    np.testing.assert_allclose(lab([[255, 255, 255], [255, 0, 0]])[:, 0], [100, 53.2], atol=0.1)
    colours = lab(COLOURS[::15])  # steps so large that their rounding does not matter
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.35 and steps.sum() > 180
    assert np.diff(colours[:, 0]).min() > 2.6  # it reads in grey


def test_a_heatmap_hides_nothing_where_it_is_zero():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    heatmap = np.zeros((64, 64))
    heatmap[:, 32:] = np.linspace(0, 1, 32)
    drawn = overlay(image, heatmap)
    assert np.array_equal(drawn[:, :32], image[:, :32])
    changed = np.abs(drawn.astype(int) - image).mean((0, 2))[32:]
    assert changed[8] < 12 and changed[31] > 40


def test_overlay_draws_what_it_is_given():
    image = np.full((100, 160, 3), 90, np.uint8)
    assert np.array_equal(overlay(image), image)
    heatmap = np.zeros((10, 16))
    heatmap[2, 12] = 1
    result = overlay(image, heatmap)
    assert result.shape == image.shape and result.dtype == np.uint8
    y, x = np.unravel_index(result.sum(2, dtype=int).argmax(), (100, 160))
    assert 20 <= y < 30 and 120 <= x < 130
    assert np.array_equal(result, overlay(image, torch.from_numpy(heatmap).float()))
    boxes = overlay(image, boxes=[[0.25, 0.2, 0.75, 0.8]], gt=torch.tensor([[0, 0, 1, 1.0]]))
    assert tuple(boxes[20, 80]) == PREDICTED and tuple(boxes[50, 40]) == PREDICTED
    assert tuple(boxes[0, 3]) == GT and tuple(boxes[99, 159]) == GT
    assert tuple(boxes[50, 80]) == (90, 90, 90)
    both = overlay(image, boxes=[[0.25, 0.2, 0.75, 0.8]], gt=[[0.25, 0.2, 0.75, 0.8]])
    assert (both == PREDICTED).all(2).any() and (both == GT).all(2).any()
    named = overlay(image, boxes=[[0.25, 0.2, 0.75, 0.8]], labels=["dog"])
    assert not np.array_equal(named, overlay(image, boxes=[[0.25, 0.2, 0.75, 0.8]]))
    assert overlay(image, heatmap, [[-1, 0.9, 2, 0.1]], size=(40, 30)).shape == (40, 30, 3)
    with pytest.raises(FloatingPointError):
        overlay(image, np.full((4, 4), np.nan))


def test_overlay_outlines_a_mask():
    image, mask = np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), bool)
    mask[20:60, 30:90] = True
    rim = (overlay(image, gt=mask) == GT).all(2)
    assert not rim[~mask].any() and not rim[25:55, 35:85].any()
    assert (
        rim[20, 30:90].all()
        and rim[59, 30:90].all()
        and rim[20:60, 30].all()
        and rim[20:60, 89].all()
    )
    assert np.array_equal(overlay(image, gt=torch.from_numpy(mask)), overlay(image, gt=mask * 0.5))


def test_contact_sheet(tmp_path):
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    tiles = [np.tile(colour, (50, 70, 1)) for colour in colours]
    tiles[1] = tiles[1].repeat(2, 0)  # taller
    rows = [[tiles[0], tiles[1]], [np.zeros_like(tiles[0]), tiles[2]]]
    write_image(
        tmp_path / "s" / "sheet.png", contact_sheet(rows, ["one", "two" * 99], ["first", "é" * 999])
    )
    sheet = read_image(tmp_path / "s" / "sheet.png")
    where = [np.argwhere((sheet == c).all(2)) for c in colours]
    assert [len(w) for w in where] == [50 * 70, 100 * 70, 50 * 70]  # each tile is whole
    corner = [w.min(0) for w in where]
    assert (
        (corner[0] < corner[2]).all()
        and corner[0][0] == corner[1][0]
        and corner[1][1] == corner[2][1]
    )
    assert sheet.shape[1] < 400 and os.listdir(tmp_path / "s") == ["sheet.png"]
    assert contact_sheet([]).size
