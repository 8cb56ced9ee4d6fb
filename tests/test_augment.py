"""turn/backbones/views.py: a rectangle is drawn, the image transformed, and the box is on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turn.backbones.views import MEAN, STD, View, train_view
from turn.backbones.views import test_view as view_of

SIZE = 64
sides = st.integers(20, 150)
fractions = st.floats(0, 1)


def scene(width, height, a, b, c, d):
    """A black image with a white rectangle, from 8 pixels wide and high, and its box (4,)."""
    w, h = 8 + round(c * (width - 8)), 8 + round(d * (height - 8))
    x, y = round(a * (width - w)), round(b * (height - h))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + h, x : x + w] = 255
    return image, ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)


def brightness(image):
    return (image * torch.from_numpy(STD) + torch.from_numpy(MEAN)).mean(0)  # (h, w) in [0, 1]


def visible_box(grey):
    """x0, y0, x1, y1 in pixels of what is brighter than half: right to a pixel."""
    ys, xs = torch.nonzero(grey > 0.5, as_tuple=True)
    return torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


def corners(box):
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


@settings(max_examples=60, deadline=None)
@given(
    sides,
    sides,
    fractions,
    fractions,
    fractions,
    fractions,
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(["a dog", "the left dog", "dog at the TOP"]),
)
def test_the_box_moves_with_its_object_and_stays_in_the_image(
    width, height, a, b, c, d, seed, flip, phrase
):
    image, box = scene(width, height, a, b, c, d)
    out, mask, moved, _ = train_view(
        image, box, phrase, SIZE, np.random.default_rng(seed), flip=flip
    )
    assert (
        out.shape == (3, SIZE, SIZE) and out.dtype == torch.float32 and mask.shape == (SIZE, SIZE)
    )
    assert torch.all(out[:, mask] == 0)
    ys, xs = torch.nonzero(~mask, as_tuple=True)
    inside = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
    assert len(ys) == (inside[2] - inside[0]) * (
        inside[3] - inside[1]
    )  # what is not padding is a rectangle
    expected = corners(moved) * SIZE
    assert torch.all(moved[2:] > 0) and moved.dtype == torch.float32
    assert torch.all(expected[:2] >= inside[:2] - 1e-3) and torch.all(
        expected[2:] <= inside[2:] + 1e-3
    )
    if (expected[2:] - expected[:2]).min() >= 3:  # a thinner one may be nowhere brighter than half
        grey = torch.where(mask, 0.0, brightness(out))
        torch.testing.assert_close(visible_box(grey), expected, rtol=0, atol=1.01)


def test_crops_scales_and_places_differ_and_follow_the_generator():
    image, box = scene(100, 80, 0.5, 0.5, 0.2, 0.2)
    views = [
        train_view(image, box, "a dog", SIZE, np.random.default_rng(seed)) for seed in range(40)
    ]
    again = train_view(image, box, "a dog", SIZE, np.random.default_rng(7))
    assert torch.equal(views[7][0], again[0]) and torch.equal(views[7][2], again[2])
    assert len({tuple(v[2].tolist()) for v in views}) == 40
    sizes = np.array([v[2][2].item() for v in views])
    assert sizes.max() > 1.5 * sizes.min()


@pytest.mark.parametrize("word", ["left", "right", "top", "bottom", "middle", "leftmost", "Left"])
def test_no_crop_where_the_phrase_says_the_place(word):
    image, box = scene(100, 100, 0.5, 0.5, 0.2, 0.2)

    def cropped(phrase):
        relative = []
        for seed in range(30):
            _, mask, moved, _ = train_view(image, box, phrase, SIZE, np.random.default_rng(seed))
            relative.append((moved[2] * SIZE / (~mask).any(0).sum()).item())
        return max(relative) > 1.02 * box[2]  # the object takes more of the view than of the image

    assert not cropped(f"dog on the {word}")
    assert cropped("dog under the bright stop sign")


def test_flip_swaps_left_and_right():
    image, box = scene(100, 60, 0, 0.5, 0.3, 0.3)
    sides = set()
    for seed in range(20):
        _, mask, moved, phrase = train_view(
            image,
            box,
            "Left dog, bright, right of the leftmost cat",
            SIZE,
            np.random.default_rng(seed),
            flip=True,
        )
        mirrored = phrase == "Right dog, bright, left of the rightmost cat"
        assert mirrored or phrase == "Left dog, bright, right of the leftmost cat"
        columns = torch.nonzero((~mask).any(0)).flatten()
        centre = (columns.min() + columns.max() + 1) / 2 / SIZE
        assert (moved[0] > centre) == mirrored
        sides.add(mirrored)
    assert sides == {True, False}
    assert train_view(image, box, "left dog", SIZE, np.random.default_rng(0))[3] == "left dog"


def test_jitter_changes_colours_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    changed = []
    for seed in range(60):
        plain, other = (
            train_view(
                image, (0.5, 0.5, 0.5, 0.5), "left", 32, np.random.default_rng(seed), jitter=jitter
            )
            for jitter in (False, True)
        )
        assert torch.equal(plain[1], other[1]) and torch.equal(plain[2], other[2])
        changed.append(not torch.equal(plain[0], other[0]))
    assert 0.65 < np.mean(changed) < 0.95  # four in five, as the authors


@settings(max_examples=60, deadline=None)
@given(sides, sides, fractions, fractions, fractions, fractions, st.booleans())
def test_a_box_found_in_a_test_view_maps_back_to_the_image(width, height, a, b, c, d, crop):
    image, box = scene(width, height, a, b, c, d)
    out, mask, view = view_of(image, SIZE, crop)
    h, w = out.shape[1:]
    assert (h, w) == (SIZE, SIZE) if crop else min(h, w) == SIZE and max(h, w) <= 4 * SIZE
    assert mask.shape == (h, w) and not mask.any()
    grey = brightness(out)
    if (grey > 0.5).sum() == 0:
        return  # cropped away, or too thin
    x0, y0, x1, y1 = visible_box(grey)
    found = torch.stack([(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h])
    visible = torch.tensor(
        [
            view.left / view.full_width,
            view.top / view.full_height,
            (view.left + w) / view.full_width,
            (view.top + h) / view.full_height,
        ]
    )
    expected = corners(torch.tensor(box))
    expected = torch.cat([expected[:2].maximum(visible[:2]), expected[2:].minimum(visible[2:])])
    pixel = 1.01 / min(view.full_width, view.full_height)
    if not crop or (expected[2:] - expected[:2]).min() > 3 * pixel:
        torch.testing.assert_close(corners(view.to_image(found)), expected, rtol=0, atol=pixel)


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4), st.booleans())
def test_mapping_back_inverts_the_view(width, height, corner, crop):
    _, _, view = view_of(np.zeros((height, width, 3), np.uint8), SIZE, crop)
    x0, x1 = sorted(corner[:2])
    y0, y1 = sorted(corner[2:])
    # in pixels of the view, and from there by hand into the whole image
    px = torch.tensor(
        [x0 * view.width, y0 * view.height, x1 * view.width, y1 * view.height], dtype=torch.float64
    )
    part = torch.tensor([view.width, view.height] * 2)
    full = torch.tensor([view.full_width, view.full_height] * 2)
    shift = torch.tensor([view.left, view.top] * 2)

    def centred(c):
        return torch.cat([(c[:2] + c[2:]) / 2, c[2:] - c[:2]])

    torch.testing.assert_close(
        view.to_image(centred(px / part)[None])[0], centred((px + shift) / full)
    )


def test_what_lies_outside_the_image_is_cut_off():
    whole = View(0, 0, 64, 64, 64, 64).to_image(
        torch.tensor([[0.5, 0.5, 2.0, 2.0], [0.95, 0.95, 0.2, 0.2]])
    )
    torch.testing.assert_close(
        whole, torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.925, 0.925, 0.15, 0.15]])
    )
