"""Views of an image: v as previous works take it, v^aug by SimCLR's augmentations, section 3.3.

SimCLR: Chen et al. 2020, appendix A. v as in LVS and EZ-VSL, whose views the authors' code has.
An image is cropped where it is read, sample by sample; `distort` changes colours and sharpness of
whole batches, on any device. All that is random is drawn from the caller's generator, one for each
sample, so that a sample's view depends on nothing else.

>>> draws = torch.tensor([[0, 1, 1, 1, 0, 1, 0]])  # one sample: it becomes grey
>>> distort(torch.tensor([200, 100, 0], dtype=torch.uint8).view(1, 3, 1, 1), draws).flatten()
tensor([118, 118, 118], dtype=torch.uint8)
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .backbones.views import to_planes

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey (Rec. 601)
RATIO = 3 / 4, 4 / 3  # width to height of a random crop
DRAWS = 7  # numbers that `draw_distortion` draws for a sample


def train_view(image, size: int, rng: np.random.Generator) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) uint8: the shorter side is resized to 1.1 · size, which
    keeps the aspect, then cropped anywhere and mirrored half of the time."""
    view = shorter_side(image, int(1.1 * size))
    x, y = rng.integers(0, view.width - size + 1), rng.integers(0, view.height - size + 1)
    return to_planes(view.crop((x, y, x + size, y + size)), rng.random() < 0.5)


def centre_view(image, size: int) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) float32 in [0, 1]: the centre, with the aspect kept, which
    is the authors' other test view. backbones.views.test_view squeezes the image instead."""
    view = shorter_side(image, size)
    x, y = round((view.width - size) / 2), round((view.height - size) / 2)
    return to_planes(view.crop((x, y, x + size, y + size)), False) / 255


def shorter_side(image, side: int) -> Image.Image:
    """The image, its shorter side resized to `side` pixels."""
    height, width = image.shape[:2]
    size = side * width // min(height, width), side * height // min(height, width)
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def crop_view(image, size: int, rng: np.random.Generator, scale=(0.08, 1.0)) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) uint8: a `crop_box`, resized, mirrored half of the time."""
    box = crop_box(*image.shape[:2], rng, scale)
    view = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return to_planes(view, rng.random() < 0.5)


def crop_box(height: int, width: int, rng: np.random.Generator, scale=(0.08, 1.0)) -> tuple:
    """Left, top, right, bottom of a random crop.

    Its share of the area is uniform in `scale`, its ratio log-uniform in RATIO. If none of ten
    draws fits into the image, it is the largest centred part with a ratio in RATIO."""
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        ratio = math.exp(rng.uniform(*map(math.log, RATIO)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            break
    else:
        w, h = min(width, height * RATIO[1]), min(height, width / RATIO[0])
        x, y = (width - w) / 2, (height - h) / 2
    return x, y, min(x + w, width), min(y + h, height)


def draw_distortion(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """What `distort` does to one sample, (DRAWS,) float32.

    Jitter or not, factors of brightness, contrast and saturation, shift of hue in turns, grey or
    not, sigma of the blur in pixels of a side of 224 (0: none). Each sample takes as many draws."""
    jitter, grey, blur = rng.random(3) < (0.8, 0.2, 0.5)
    factors = np.maximum(0, 1 + 0.8 * strength * rng.uniform(-1, 1, 3))
    hue, sigma = 0.2 * strength * rng.uniform(-1, 1), rng.uniform(0.1, 2.0)
    return np.array([jitter, *factors, hue, grey, sigma * blur], np.float32)


def distort(images: torch.Tensor, draws) -> torch.Tensor:
    """(B, 3, H, W) uint8 and rows of `draw_distortion` (B, DRAWS) → (B, 3, H, W) uint8.

    Brightness, contrast about the image's mean grey, saturation, hue and greying, in this order,
    are affine in the colour of a pixel: each sample has one matrix and one offset for all. SimCLR
    shuffles the first four and clips values after each of them, here only at the end: a colour that
    one step drives out of range can be brought back by the next. Blur comes last, as there."""
    draws = torch.as_tensor(draws, dtype=torch.float32)
    blurred = draws[:, 6].nonzero()[:, 0].to(images.device)  # found before a GPU would have to wait
    draws = draws.to(images.device)
    pixels = images.flatten(2).float()  # (B, 3, H · W)
    matrix, offset = colour_transform(pixels, draws)
    mixed = torch.baddbmm(offset[:, None, None], matrix, pixels).clamp_(0, 255).view(images.shape)
    if len(blurred):
        mixed[blurred] = blur(mixed[blurred], (draws[:, 6] * images.shape[3] / 224)[blurred])
    return mixed.round_().to(torch.uint8)


def colour_transform(pixels, draws) -> tuple[torch.Tensor, torch.Tensor]:
    """M (B, 3, 3) and t (B,) for pixels (B, 3, H · W): the colour c of a pixel becomes M c + t.

        M = grey · rotation of hue · saturation · contrast · brightness
        t = (1 − contrast) · brightness · mean grey

    The first three leave grey as it is, so t, which is grey, passes through them."""
    jitter, grey, device = draws[:, 0] > 0, draws[:, 5] > 0, pixels.device
    factors = torch.where(jitter[:, None], draws[:, 1:4], 1)  # (B, 3)
    brightness, contrast, saturation = factors.unbind(1)  # (B,) each
    angle = torch.where(jitter, draws[:, 4], 0) * (2 * math.pi)

    eye, ones = torch.eye(3, device=device), torch.ones(3, 3, device=device)
    luma = torch.tensor(LUMA, device=device).expand(3, 3)  # maps a colour to its grey
    cross = torch.tensor([[0., -1, 1], [1, 0, -1], [-1, 1, 0]], device=device)  # with (1, 1, 1)
    sine, cosine, s, gain, grey = (x[:, None, None] for x in (
        angle.sin(), angle.cos(), saturation, brightness * contrast, grey))
    saturate = s * eye + (1 - s) * luma  # (B, 3, 3), as the next
    rotate = cosine * eye + (1 - cosine) / 3 * ones + sine * (cross / math.sqrt(3))  # Rodrigues
    matrix = torch.where(grey, luma, eye) @ rotate @ saturate * gain
    mean_grey = pixels.mean(2) @ luma[0]  # (B,)
    return matrix, (1 - contrast) * brightness * mean_grey


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) float, blurred by Gaussians of sigma (B,) > 0 pixels; edges are repeated."""
    radius = max(1, min(images.shape[2:]) // 20)  # the kernel is a tenth of the shorter side long
    t = torch.arange(-radius, radius + 1, device=images.device)
    taps = torch.softmax(-t.square() / (2 * sigma.square()[:, None]), 1)  # (B, 2 · radius + 1)
    taps = taps.repeat_interleave(images.shape[1], 0)[:, None, None]  # (B · C, 1, 1, …)
    x = F.pad(images.flatten(0, 1)[None], [radius] * 4, mode="replicate")  # (1, B · C, …)
    x = F.conv2d(F.conv2d(x, taps, groups=len(taps)), taps.transpose(2, 3), groups=len(taps))
    return x.view(images.shape)
