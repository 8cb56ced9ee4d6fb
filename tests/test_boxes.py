"""Boxes from maps against loops over thresholds, pixels and components."""

from collections import deque
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.evaluation.boxes import boxes_from_maps, components, otsu

pytestmark = pytest.mark.slow

shapes = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13))
seeds = st.integers(0, 10**6)


def smooth(n, height, width, seed=0):
    coarse = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic")[:, 0]


def unit(grid):
    low, high = grid.min(), grid.max()
    return (grid - low) / (high - low) if high > low else np.zeros_like(grid)


def naive_otsu(grid):
    """Class variances by their definition, exactly, for each of the 255 thresholds."""
    levels = np.maximum(np.ceil(unit(grid) * 256) - 1, 0).ravel().astype(int)
    best, found = -1, None
    for t in range(255):
        lower, upper = levels[levels <= t].tolist(), levels[levels > t].tolist()
        if lower and upper:
            means = [Fraction(sum(part), len(part)) for part in (lower, upper)]
            variance = len(lower) * len(upper) * (means[0] - means[1]) ** 2
            if variance > best:
                best, found = variance, t
    return (found + 1) / 256


def flood(mask):
    """Sets of pixels, by breadth-first search over eight neighbours."""
    height, width = mask.shape
    seen, parts = set(), []
    for start in zip(*np.nonzero(mask)):
        if start in seen:
            continue
        seen.add(start)
        part, queue = set(), deque([start])
        while queue:
            y, x = queue.popleft()
            part.add((int(y), int(x)))
            for near in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if (
                    0 <= near[0] < height
                    and 0 <= near[1] < width
                    and mask[near]
                    and near not in seen
                ):
                    seen.add(near)
                    queue.append(near)
        parts.append(part)
    return parts


def parts_of(labels):
    return [
        {tuple(p) for p in (labels == k).nonzero().tolist()} for k in labels.unique().tolist() if k
    ]


def naive_boxes(grid, least):
    grid = unit(grid)
    height, width = grid.shape
    if grid.max() == 0:
        return []
    rows = []
    for part in flood(grid > naive_otsu(grid)):
        if len(part) / (height * width) >= least:
            ys, xs = zip(*part)
            mean = sum(float(grid[p]) for p in part) / len(part)
            rows.append(
                (
                    min(xs) / width,
                    min(ys) / height,
                    (max(xs) + 1) / width,
                    (max(ys) + 1) / height,
                    mean,
                )
            )
    return sorted(rows, key=lambda row: -row[4])


# Otsu ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, st.sampled_from([2, 3, 7, 300, 10**6]))
def test_otsu_against_a_loop_over_thresholds(shape, seed, levels):
    maps = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    maps[:, 0, 0] += levels * (shape[1] * shape[2] > 1)  # no constant map
    ours = otsu(torch.from_numpy(maps))
    assert ours.shape == shape[:1]
    if shape[1] * shape[2] > 1:
        assert ours.tolist() == [naive_otsu(grid) for grid in maps]


def test_otsu_parts_two_humps():
    generator = torch.Generator().manual_seed(0)
    maps = torch.cat(
        [
            torch.randn(2, 50, 30, generator=generator),
            torch.randn(2, 50, 20, generator=generator) + 12,
        ],
        2,
    )
    thresholds = maps.amin((1, 2)) + otsu(maps) * (maps.amax((1, 2)) - maps.amin((1, 2)))
    assert ((thresholds > 3.0) & (thresholds < 9.0)).all()
    assert (
        otsu(torch.tensor([[[0.0, 0.25, 1]]])).item() == 64 / 256
    )  # a bin is closed above: 0.25 is in the lower class
    assert otsu(torch.tensor([[[0.0, 0, 1]]])).item() == 1 / 256  # the first of equal ones


# Components ---------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(shapes, st.sampled_from([0.1, 0.3, 0.45, 0.6, 0.8, 0.95]), seeds)
def test_components_against_flood_fill(shape, density, seed):
    masks = np.random.default_rng(seed).random(shape) < density
    labels = components(torch.from_numpy(masks))
    assert labels.shape == shape and labels.dtype == torch.int64
    parts = [part for mask in masks for part in flood(mask)]
    assert sorted(map(sorted, parts)) == sorted(
        sorted(p) for grid in labels for p in parts_of(grid)
    )
    assert set(labels.unique().tolist()) - {0} == set(range(1, len(parts) + 1))


def spiral(side):
    """One path a pixel wide from a corner to the middle, with a pixel between its turns."""
    mask = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    for length in [side - 1, *(k for k in range(side - 1, 0, -2) for _ in range(2))]:
        for _ in range(length):
            mask[y, x] = True
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    return mask


@pytest.mark.parametrize("turn", range(4))
def test_a_spiral_is_one_component_after_few_rounds(turn, monkeypatch):
    mask = np.rot90(spiral(64), turn).copy()
    assert mask.sum() > 1800 and len(flood(mask)) == 1
    rounds = []
    plain = torch.Tensor.scatter_reduce
    monkeypatch.setattr(
        torch.Tensor, "scatter_reduce", lambda *args: rounds.append(1) or plain(*args)
    )
    labels = components(torch.from_numpy(mask)[None])[0]
    assert torch.equal(labels, torch.from_numpy(mask).long())
    assert 1 <= len(rounds) <= 8
    cut = mask.copy()
    cut[:, 32] = False
    assert sorted(map(sorted, parts_of(components(torch.from_numpy(cut)[None])[0]))) == sorted(
        map(sorted, flood(cut))
    )


def test_empty_full_corners_and_neighbours_in_the_batch():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    assert not components(masks).any()
    assert torch.equal(
        components(~masks), torch.tensor([1, 2, 3])[:, None, None].expand(3, 5, 7)
    )  # maps do not touch
    cross = torch.eye(6, dtype=torch.bool)[None]
    assert components(cross).max() == components(cross.flip(2)).max() == 1  # corners join
    ends = torch.tensor([[[0, 0, 1], [1, 0, 0]]], dtype=torch.bool)
    assert components(ends).max() == 2  # the end of a row does not touch the start of the next
    assert components(torch.zeros(0, 3, 3, dtype=torch.bool)).shape == (0, 3, 3)


# Boxes --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, st.sampled_from([0.0, 0.02, 0.1]))
@example((1, 6, 5), 1, 0.1)  # a component of exactly `least`
def test_boxes_against_loops(shape, seed, least):
    maps = np.random.default_rng(seed).random(shape)
    found = boxes_from_maps(torch.from_numpy(maps), least)
    assert len(found) == len(maps)
    for ours, grid in zip(found, maps):
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(
            ours, np.reshape(naive_boxes(grid, least), (-1, 5)), rtol=0, atol=1e-6
        )


def test_boxes_of_smooth_maps():
    maps = smooth(6, 60, 44)
    found = boxes_from_maps(maps)
    assert sum(map(len, found)) > 6
    for ours, grid in zip(found, maps.numpy()):
        np.testing.assert_allclose(ours, naive_boxes(grid, 0.01), rtol=0, atol=1e-5)


def test_two_rectangles():
    maps = torch.zeros(1, 20, 40)
    maps[0, 2:6, 10:30] = 0.8
    maps[0, 10:20, 0:5] = 1.0
    maps[0, 0, 39] = 1.0  # one pixel of 800 is less than a hundredth
    expected = torch.tensor([[0, 0.5, 0.125, 1, 1], [0.25, 0.1, 0.75, 0.3, 0.8]])
    torch.testing.assert_close(boxes_from_maps(maps)[0], expected)
    assert len(boxes_from_maps(maps, least=1 / 800)[0]) == 3
    assert len(boxes_from_maps(maps, least=1 / 799)[0]) == 2


def test_constant_maps_have_no_box():
    maps = torch.stack(
        [torch.zeros(9, 9), smooth(1, 9, 9)[0], torch.full((9, 9), 0.7), torch.full((9, 9), -3.0)]
    )
    found = boxes_from_maps(maps)
    assert [len(boxes) > 0 for boxes in found] == [False, True, False, False]
    assert found[0].shape == (0, 5)
    assert [tuple(boxes.shape) for boxes in boxes_from_maps(maps[[0, 2]])] == [(0, 5), (0, 5)]


def test_batch_equals_one_at_a_time():
    maps = torch.cat(
        [smooth(5, 30, 30), torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0))]
    )
    for ours, single in zip(boxes_from_maps(maps, 0), maps):
        assert torch.equal(ours, boxes_from_maps(single[None], 0)[0])


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(-8, 8), st.integers(-1000, 1000))
def test_affine_transforms_of_the_map_change_nothing(seed, power, shift):
    maps = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**16, (2, 12, 9))).double()
    moved = maps * 2.0**power + shift  # without rounding
    assert torch.equal(otsu(maps), otsu(moved))
    for a, b in zip(boxes_from_maps(maps), boxes_from_maps(moved)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "maps", [torch.zeros(3, 3), torch.full((1, 3, 3), float("nan")), torch.zeros(0, 3, 3)]
)
def test_bad_maps(maps):
    for function in otsu, boxes_from_maps:
        with pytest.raises(ValueError):
            function(maps)
