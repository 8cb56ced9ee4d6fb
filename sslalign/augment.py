"""SimCLR's augmentations (Chen et al. 2020, appendix A) for the hand-crafted positive of a picture (section 3.3).

A view is cut out sample by sample, where the picture is read; colours change by whole batches, on any device. All that is random
is drawn from the caller's generator, one for each sample, so that a sample's view depends on nothing else.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .backbones.views import planes

LUMA = (0.299, 0.587, 0.114)  # what red, green and blue weigh in grey (Rec. 601)
RATIO = 3 / 4, 4 / 3  # width to height of a random crop
DRAWN = 7  # numbers that are drawn for the colours of one sample


def crop_view(image: np.ndarray, size: int, rng: np.random.Generator, scale=(0.08, 1.0)) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) uint8: SimCLR's random crop, resized, mirrored or not. See `crop_box`."""
    box = crop_box(*image.shape[:2], rng, scale)
    view = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return planes(view, rng.random() < 0.5)


def crop_box(height: int, width: int, rng: np.random.Generator, scale=(0.08, 1.0)) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a random part: its share of the area uniform in `scale`, its ratio log-uniform in RATIO.

    Where none of ten draws fits into the picture, it is the largest part around the centre with a ratio in RATIO.
    """
    for _ in range(10):
        area, ratio = rng.uniform(*scale) * height * width, math.exp(rng.uniform(*map(math.log, RATIO)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            break
    else:
        w, h = min(width, height * RATIO[1]), min(height, width / RATIO[0])
        x, y = (width - w) / 2, (height - h) / 2
    return x, y, min(x + w, width), min(y + h, height)


def draw_colours(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """(DRAWN,) float32, what `colours` does to one sample: jitter or not, factors of brightness, contrast and saturation, shift
    of hue in turns, grey or not, sigma of the blur in pixels of a side of 224 (0: none). The same number of draws for each sample."""
    jitter, grey, blur = rng.random(3) < (0.8, 0.2, 0.5)
    factors = np.maximum(0, 1 + 0.8 * strength * rng.uniform(-1, 1, 3))
    hue, sigma = 0.2 * strength * rng.uniform(-1, 1), rng.uniform(0.1, 2.0)
    return np.array([jitter, *factors, hue, grey, sigma * blur], np.float32)


def colours(images: torch.Tensor, drawn) -> torch.Tensor:
    """(B, 3, H, W) uint8 and (B, DRAWN) rows of `draw_colours` → (B, 3, H, W) uint8, on the images' device.

    Brightness, contrast about the picture's mean grey, saturation, hue (a rotation about the grey axis) and greying, in this
    order, are affine in the colour of a pixel, so a sample's are composed into one matrix and one offset. SimCLR shuffles the
    first four and cuts values off at 0 and 1 after each step, here only at the end: a colour that one step drives out of range
    can be brought back by the next. Blur comes last, as there.
    """
    drawn = torch.as_tensor(drawn, dtype=torch.float32)
    blurred = drawn[:, 6].nonzero()[:, 0].to(images.device)  # before the row moves: no waiting for the device
    drawn = drawn.to(images.device)
    jitter, grey, sigma = drawn[:, 0] > 0, drawn[:, 5] > 0, drawn[:, 6] * images.shape[3] / 224
    brightness, contrast, saturation = torch.where(jitter[:, None], drawn[:, 1:4], 1).unbind(1)  # (B,) each
    angle = torch.where(jitter, drawn[:, 4], 0) * (2 * math.pi)

    eye, ones = torch.eye(3, device=images.device), torch.ones(3, 3, device=images.device)
    luma = torch.tensor(LUMA, device=images.device).expand(3, 3)  # maps a colour to its grey
    axis = torch.tensor([[0., -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device) / math.sqrt(3)  # cross product with it
    sine, cosine, s, gain, grey = (x[:, None, None] for x in (angle.sin(), angle.cos(), saturation, brightness * contrast, grey))
    saturate = s * eye + (1 - s) * luma  # (B, 3, 3), as are the next two
    rotate = cosine * eye + (1 - cosine) / 3 * ones + sine * axis  # Rodrigues' formula
    matrix = torch.where(grey, luma, eye) @ rotate @ saturate * gain
    # The three leave grey as it is, so what contrast adds to every channel passes through them.
    pixels = images.flatten(2).float()  # (B, 3, H · W)
    offset = (1 - contrast) * brightness * (pixels.mean(2) @ luma[0])  # (B,)
    mixed = torch.baddbmm(offset[:, None, None], matrix, pixels).clamp_(0, 255).view(images.shape)
    if len(blurred):
        mixed[blurred] = blur(mixed[blurred], sigma[blurred])
    return mixed.round_().to(torch.uint8)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) float, sigma (B,) > 0 in pixels: Gaussian blur, a kernel a tenth of the shorter side long, edges repeated."""
    radius = max(1, min(images.shape[2:]) // 20)
    t = torch.arange(-radius, radius + 1, device=images.device)
    taps = torch.softmax(-t.square() / (2 * sigma.square()[:, None]), 1)  # (B, 2 · radius + 1)
    taps = taps.repeat_interleave(images.shape[1], 0)[:, None, None]  # (B · C, 1, 1, 2 · radius + 1)
    x = F.pad(images.flatten(0, 1)[None], [radius] * 4, mode="replicate")  # (1, B · C, H + 2 · radius, W + 2 · radius)
    x = F.conv2d(F.conv2d(x, taps, groups=len(taps)), taps.transpose(2, 3), groups=len(taps))
    return x.view(images.shape)
