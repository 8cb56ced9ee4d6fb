"""backbones/views.py and sslalign/augment.py: views against the authors' evaluation and where they
lie, colours against formulas pixel by pixel."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslalign.augment import DRAWS, LUMA, RATIO, blur, distort, crop_box, crop_view, draw_distortion
from sslalign.augment import centre_view, train_view
from sslalign.backbones.views import MEAN, STD, normalise
from sslalign.backbones.views import test_view as view_of

GOLDEN = np.load(Path(__file__).parent / "goldens" / "logspec_ezvsl.npz")
IMAGE = GOLDEN["image_uint8"]  # (86, 116, 3)
OFF = [0.0, 1, 1, 1, 0, 0, 0]  # nothing drawn
seeds = st.integers(0, 10**6)


def rng(seed):
    return np.random.default_rng(seed)


def batch(n=6, height=12, width=15, low=0, high=256, seed=0):
    return torch.from_numpy(rng(seed).integers(low, high, (n, 3, height, width)).astype(np.uint8))


def row(**changes):
    names = ("jitter", "brightness", "contrast", "saturation", "hue", "grey", "sigma")
    return [changes.get(name, off) for name, off in zip(names, OFF)]


def ramps(height, width):
    """An image whose red grows from left to right and whose green grows downwards, 0 to 255."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return np.round(255 * np.stack(np.broadcast_arrays(x[None], y[:, None], 0.5), -1)).astype(
        np.uint8
    )


# Views --------------------------------------------------------------------------------------------


def test_released_numbers():
    ours = normalise(view_of(IMAGE, 224)[None])[0]
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.float32
    np.testing.assert_allclose(
        ours[:, ::8, ::8], GOLDEN["image_sslalign_tensor_resize"], rtol=0, atol=2e-3
    )


def test_a_test_view_of_the_right_size_is_the_image_and_overshoots_are_kept():
    square = IMAGE[:64, :64]
    assert torch.equal(view_of(square, 64), torch.from_numpy(square).permute(2, 0, 1) / 255)
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    assert view_of(edge, 32).min() < -0.01 and view_of(edge, 32).max() > 1.01
    assert view_of(IMAGE[:1, :7], 16).shape == (3, 16, 16)


@pytest.mark.parametrize("view", [train_view, crop_view])
def test_views_follow_their_generator(view):
    views = [view(IMAGE, 48, rng(seed)) for seed in range(12)]
    assert all(
        v.shape == (3, 48, 48) and v.dtype == torch.uint8 and v.is_contiguous() for v in views
    )
    assert all(torch.equal(v, view(IMAGE, 48, rng(seed))) for seed, v in enumerate(views))
    assert len({v.numpy().tobytes() for v in views}) == 12


def places(view):
    """Left, right, top, bottom of a view of `ramps` as shares of it, and whether it is mirrored."""
    red, green = (view[i].double().mean(i) / 255 for i in (0, 1))  # by column, by row
    inner = slice(
        len(red) // 4, -(len(red) // 4)
    )  # away from the edges, where a cubic filter bends a ramp
    at = np.arange(len(red))[inner] + 0.5
    (a, b), (c, d) = np.polyfit(at, red[inner], 1), np.polyfit(at, green[inner], 1)
    x0, x1, y0, y1 = b, a * len(red) + b, d, c * len(red) + d
    return min(x0, x1), max(x0, x1), y0, y1, x0 > x1


def test_a_train_view_keeps_the_aspect():
    """Ten elevenths of the shorter side, the same length of the other, anywhere in the image."""
    seen = np.array([places(train_view(ramps(120, 180), 60, rng(seed))) for seed in range(300)])
    left, right, top, bottom, mirrored = seen.T
    np.testing.assert_allclose(bottom - top, 60 / 66, atol=0.01)
    np.testing.assert_allclose(right - left, 60 / 99, atol=0.01)
    for low, high in (left, right), (top, bottom):
        assert low.min() == pytest.approx(0, abs=0.01) and high.max() == pytest.approx(1, abs=0.01)
    assert len(np.unique(np.round(top * 66))) == 7 and len(np.unique(np.round(left * 99))) > 30
    assert 0.4 < mirrored.mean() < 0.6
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.2 and abs(np.corrcoef(left, mirrored)[0, 1]) < 0.2


def test_a_centre_view_keeps_the_aspect():
    left, right, top, bottom, mirrored = places(centre_view(ramps(120, 180), 60) * 255)
    assert (left, right) == (pytest.approx(1 / 6, abs=0.01), pytest.approx(5 / 6, abs=0.01))
    assert (top, bottom, mirrored) == (
        pytest.approx(0, abs=0.01),
        pytest.approx(1, abs=0.01),
        False,
    )
    assert centre_view(ramps(180, 120), 64).shape == (3, 64, 64)


def test_a_crop_view_shows_its_box():
    for seed in range(30):
        x0, y0, x1, y1 = crop_box(300, 200, rng(seed), (0.3, 1.0))
        left, right, top, bottom, mirrored = places(
            crop_view(ramps(300, 200), 64, rng(seed), (0.3, 1.0))
        )
        np.testing.assert_allclose(
            [left, top, right, bottom], [x0 / 200, y0 / 300, x1 / 200, y1 / 300], atol=0.012
        )
        generator = rng(seed)
        crop_box(300, 200, generator, (0.3, 1.0))
        assert mirrored == (generator.random() < 0.5)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    seeds,
    st.sampled_from([(0.08, 1.0), (0.5, 0.6), (1.0, 1.0)]),
)
def test_the_share_and_the_ratio_of_a_crop(height, width, seed, scale):
    x0, y0, x1, y1 = crop_box(height, width, rng(seed), scale)
    w, h = x1 - x0, y1 - y0
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert RATIO[0] - 1e-9 <= w / h <= RATIO[1] + 1e-9
    share = w * h / (height * width)
    if (
        not scale[0] - 1e-9 <= share <= scale[1] + 1e-9
    ):  # the centre, as large as its ratio lets it be
        assert (x0 + x1, y0 + y1) == pytest.approx((width, height))
        assert w == pytest.approx(width) or h == pytest.approx(height)
        assert w / h == pytest.approx(min(max(width / height, RATIO[0]), RATIO[1]))


def test_shares_are_uniform_and_ratios_symmetric():
    boxes = np.array([crop_box(100, 100, rng(seed)) for seed in range(3000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    small = w * h < 10**4 * 0.7  # which fit whatever their ratio
    share, ratio = w[small] * h[small] / 10**4, np.log(w[small] / h[small]) / math.log(4 / 3)
    assert np.histogram(share, 4, (0.08, 0.7))[0] / len(share) == pytest.approx(
        [0.25] * 4, abs=0.04
    )
    assert np.histogram(ratio, 4, (-1, 1))[0] / len(ratio) == pytest.approx([0.25] * 4, abs=0.04)
    assert np.histogram(boxes[small, 0] / (100 - w[small]), 4, (0, 1))[0] / len(
        share
    ) == pytest.approx([0.25] * 4, abs=0.04)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (7, 7)])
def test_views_of_the_oddest_images(shape):
    image = rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for seed in range(20):
        for view in train_view, crop_view:
            assert view(image, 8, rng(seed)).shape == (3, 8, 8)
    grey = np.full((*shape, 3), 77, np.uint8)
    assert (crop_view(grey, 8, rng(0)) == 77).all() and (train_view(grey, 8, rng(0)) == 77).all()


def test_a_mirror_keeps_the_colours():
    """A square image's largest part is all of it: what is left to chance is the mirror."""
    views = {
        v.numpy().tobytes(): v
        for v in (crop_view(IMAGE[:86, :86], 40, rng(seed), (1.0, 1.0)) for seed in range(20))
    }
    one, other = views.values()
    assert torch.equal(one, other.flip(2)) and torch.equal(one.sum((1, 2)), other.sum((1, 2)))


# Colours ------------------------------------------------------------------------------------------


def test_what_is_drawn():
    drawn = np.array([draw_distortion(rng(seed)) for seed in range(4000)])
    assert drawn.shape == (4000, DRAWS) and drawn.dtype == np.float32
    jitter, *factors, hue, grey, sigma = drawn.T
    assert jitter.mean() == pytest.approx(0.8, abs=0.03) and grey.mean() == pytest.approx(
        0.2, abs=0.03
    )
    assert (sigma > 0).mean() == pytest.approx(0.5, abs=0.03)
    for values, low, high in (
        *((f, 0.2, 1.8) for f in factors),
        (hue, -0.2, 0.2),
        (sigma[sigma > 0], 0.1, 2.0),
    ):
        assert low <= values.min() and values.max() <= high + 1e-6
        assert np.histogram(values, 4, (low, high + 1e-6))[0] / len(values) == pytest.approx(
            [0.25] * 4, abs=0.03
        )
    assert np.abs(np.corrcoef(drawn.T) - np.eye(DRAWS)).max() < 0.06
    assert np.array_equal(draw_distortion(rng(3)), drawn[3])
    strong = np.array([draw_distortion(rng(seed), 2.0) for seed in range(200)])
    assert (
        strong[:, 1:4].min() == 0
        and strong[:, 1:4].max() > 2.3
        and np.abs(strong[:, 4]).max() > 0.35
    )


def test_as_many_draws_whatever_is_drawn():
    generators = [rng(seed) for seed in range(20)]
    for generator, other in zip(generators, [rng(seed) for seed in range(20)]):
        draw_distortion(generator)
        other.random(8)
        assert generator.random() == other.random()


def test_nothing_drawn_is_the_identity():
    images = batch()
    for drawn in (
        [OFF] * 6,
        [row(jitter=1)] * 6,
        [row(brightness=2, contrast=0, saturation=0, hue=0.3)] * 6,
    ):  # jitter is off
        assert torch.equal(distort(images, drawn), images)
    calm = np.array([draw_distortion(rng(seed), 0.0) for seed in range(6)])
    calm[:, 5:] = 0
    assert torch.equal(distort(images, calm), images)
    assert torch.equal(images, batch())  # the input is not touched


def test_batch_equals_one_at_a_time():
    images, drawn = batch(30), np.array([draw_distortion(rng(seed)) for seed in range(30)])
    together = distort(images, torch.from_numpy(drawn))
    assert together.shape == images.shape and together.dtype == torch.uint8
    for i in range(30):
        single = distort(images[i : i + 1], drawn[i : i + 1])[0]
        assert (
            together[i].int() - single.int()
        ).abs().max() <= 1  # sums in another order, then rounded
        assert (together[i] == single).float().mean() > 0.99


def naive(image, jitter, brightness, contrast, saturation, hue, grey):
    """(3, H, W) pixel by pixel, step by step, cut off at the end."""
    pixels = [
        [image[:, y, x].astype(float) for x in range(image.shape[2])] for y in range(image.shape[1])
    ]
    every = [(y, x) for y in range(image.shape[1]) for x in range(image.shape[2])]
    luma = lambda colour: sum(w * c for w, c in zip(LUMA, colour))
    if jitter:
        for y, x in every:
            pixels[y][x] = pixels[y][x] * brightness
        mean = sum(luma(pixels[y][x]) for y, x in every) / len(every)
        axis = np.ones(3) / math.sqrt(3)
        for y, x in every:
            c = mean + contrast * (pixels[y][x] - mean)
            c = luma(c) + saturation * (c - luma(c))
            along = axis * (axis @ c)
            turned = np.cross(axis, c)
            pixels[y][x] = (
                along
                + math.cos(2 * math.pi * hue) * (c - along)
                + math.sin(2 * math.pi * hue) * turned
            )
    if grey:
        for y, x in every:
            pixels[y][x] = np.full(3, luma(pixels[y][x]))
    return np.clip(np.array(pixels), 0, 255).transpose(2, 0, 1)


@settings(max_examples=60, deadline=None)
@example(0, True, 0.7, 1.4, 1.6, 0.2, True)
@example(1, True, 1.2, 0.6, 0.4, -0.15, False)
@given(seeds, st.booleans(), *[st.floats(0, 2)] * 3, st.floats(-0.5, 0.5), st.booleans())
def test_colours_against_loops(seed, jitter, brightness, contrast, saturation, hue, grey):
    images = batch(2, 4, 5, seed=seed)
    settings_of = [jitter, brightness, contrast, saturation, hue, grey]
    ours = distort(images, [[*settings_of, 0], OFF])
    assert np.abs(ours[0].numpy() - naive(images[0].numpy(), *settings_of)).max() <= 0.51
    assert torch.equal(ours[1], images[1])


@pytest.mark.parametrize(
    "changes, law",
    [
        ({"brightness": 0.5}, lambda x: x / 2),
        ({"brightness": 0}, lambda x: 0 * x),
        (
            {"contrast": 0},
            lambda x: 0 * x + np.average(x.mean((2, 3)), axis=1, weights=LUMA)[:, None, None, None],
        ),
        ({"saturation": 0}, lambda x: 0 * x + np.average(x, axis=1, weights=LUMA)[:, None]),
        ({"hue": 1}, lambda x: x),
        ({"hue": 1 / 3}, lambda x: np.roll(x, 1, 1)),
        ({"hue": -1 / 3}, lambda x: np.roll(x, -1, 1)),
    ],
)
def test_laws_of_each_change(changes, law):
    images = batch(3)
    ours = distort(images, [row(jitter=1, **changes)] * 3).numpy()
    assert np.abs(ours - law(images.double().numpy())).max() <= 0.51


def test_grey_makes_channels_equal_and_values_are_cut_off():
    ours = distort(batch(2), [row(grey=1), row(jitter=1, hue=0.1, saturation=1.5, grey=1, sigma=1)])
    assert torch.equal(ours[:, 0], ours[:, 1]) and torch.equal(ours[:, 0], ours[:, 2])
    bright = distort(batch(1, low=200), [row(jitter=1, brightness=1.8)])
    assert (bright == 255).all()
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.equal(distort(green, [row(jitter=1, saturation=1.8)]), green)


# Blur ---------------------------------------------------------------------------------------------


def naive_blur(plane, sigma, radius):
    height, width = plane.shape
    weights = {
        (i, j): math.exp(-(i * i + j * j) / (2 * sigma**2))
        for i in range(-radius, radius + 1)
        for j in range(-radius, radius + 1)
    }
    result = np.zeros_like(plane)
    for y in range(height):
        for x in range(width):
            result[y, x] = sum(
                w * plane[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)]
                for (i, j), w in weights.items()
            ) / sum(weights.values())
    return result


@pytest.mark.parametrize("height, width, radius", [(7, 9, 1), (1, 6, 1), (40, 45, 2)])
def test_blur_against_loops(height, width, radius):
    images, sigma = (
        torch.from_numpy(rng(0).random((2, 2, height, width))).float(),
        torch.tensor([0.4, 1.9]),
    )
    ours = blur(images, sigma)
    for i in range(2):
        expected = naive_blur(images[i, 1].double().numpy(), float(sigma[i]), radius)
        np.testing.assert_allclose(ours[i, 1], expected, rtol=0, atol=1e-5)


def test_only_samples_with_a_sigma_are_blurred_each_by_its_own():
    images = batch(4, 40, 40)
    ours = distort(
        images, [row(sigma=s * 224 / 40) for s in (0, 0.5, 0, 2)]
    )  # drawn for a side of 224
    assert torch.equal(ours[0], images[0]) and torch.equal(ours[2], images[2])
    rough = [float(x.double().diff(dim=2).abs().mean()) for x in ours]
    assert rough[3] < rough[1] / 1.5 < rough[0] / 1.5
    expected = blur(images.float(), torch.tensor([1, 0.5, 1, 2])).round()
    assert torch.equal(ours[1], expected[1].byte()) and torch.equal(ours[3], expected[3].byte())


def test_the_kernel_is_a_tenth_of_the_side():
    for side, radius in (96, 4), (224, 11), (30, 1), (8, 1):
        dot = torch.zeros(1, 1, side, side)
        dot[0, 0, side // 2, side // 2] = 1
        assert (blur(dot, torch.tensor([9.0]))[0, 0] > 1e-7).sum() == (2 * radius + 1) ** 2


# Units --------------------------------------------------------------------------------------------


def test_normalise():
    images = batch(2)
    ours = normalise(images)
    expected = (images.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalise(images / 255), ours, rtol=0, atol=1e-5)
    assert MEAN == (0.485, 0.456, 0.406) and STD == (0.229, 0.224, 0.225)
