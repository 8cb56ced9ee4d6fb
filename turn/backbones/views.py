"""The image front end: views of images for the model, and the boxes that move with them.

Appendix A.2.1, which takes the random scale, crop and translation of one-stage grounding (Yang et
al. 2019, 2020). Boxes are cx, cy, w, h in [0, 1], of the image outside and of the view, padding
included, inside.
"""
import re
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance

MEAN, STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
                     np.float32)[:, :, None, None]  # of ImageNet
GAIN, BIAS = 1 / (255 * STD), MEAN / STD  # (3, 1, 1)
SCALE = 0.7, 1.0  # the longer side in parts of the view; one-stage grounding has seven such steps
CROP = 0.6, 0.95  # sides of a crop in parts of the image's
CROPPED = 0.5  # the part of the images that are cropped
JITTER = 0.4  # greatest change of brightness, contrast and saturation
WIDEST = 4  # a longer image is squeezed at test time, or one odd file would take all memory
PLACE = re.compile(r"\b(left|right|top|bottom|middle)", re.IGNORECASE)  # not "bright", "stop"
SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)


def train_view(image: np.ndarray, box, phrase: str, size: int, rng: np.random.Generator,
               flip: bool = False, jitter: bool = False) -> tuple:
    """Random crop, scale and translation of an image (H, W, 3) uint8, in one resampling.

    Returns the view (3, size, size), normalised as for ImageNet, 0 on padding; its padding (size,
    size), True where padded; the box (4,) of the same object in the view; the phrase. A crop keeps
    the whole box; there is none if the phrase says left, right, top, bottom or middle. `flip`
    mirrors half of the images, with left and right in their phrases; `jitter` changes the colours
    of four in five: both are in the authors' code only."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = _corners(box, width, height)
    left, top, right, bottom = 0., 0., float(width), float(height)  # the crop
    if not PLACE.search(phrase) and rng.random() < CROPPED:
        left, right = _crop(x0, x1, width, rng)
        top, bottom = _crop(y0, y1, height, rng)
    scale = rng.uniform(*SCALE) * size / max(right - left, bottom - top)
    w, h = (max(1, round(side * scale)) for side in (right - left, bottom - top))
    x, y = rng.integers(0, size - w + 1), rng.integers(0, size - h + 1)

    view = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR,
                                         box=(left, top, right, bottom))
    # the sides were rounded to pixels, so each axis has its own scale
    x0, x1 = ((v - left) * w / (right - left) for v in (x0, x1))
    y0, y1 = ((v - top) * h / (bottom - top) for v in (y0, y1))
    if flip and rng.random() < 0.5:
        view, x0, x1 = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT), w - x1, w - x0
        phrase = SIDE.sub(_other_side, phrase)
    if jitter and rng.random() < 0.8:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = change(view).enhance(rng.uniform(1 - JITTER, 1 + JITTER))

    canvas = torch.zeros(3, size, size)
    canvas[:, y:y + h, x:x + w] = _normalise(view)
    padding = torch.ones(size, size, dtype=torch.bool)
    padding[y:y + h, x:x + w] = False
    box = torch.tensor([x + (x0 + x1) / 2, y + (y0 + y1) / 2, x1 - x0, y1 - y0])
    return canvas, padding, box.to(torch.float32) / size, phrase


class View(NamedTuple):
    """Where a test view lies in the resized image, in pixels: its top left corner and its size."""
    left: int
    top: int
    width: int
    height: int
    full_width: int
    full_height: int

    def to_image(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (…, 4) in the view → boxes in the whole image, cut off at its edges."""
        span = boxes.new_tensor([self.width, self.height])
        full = boxes.new_tensor([self.full_width, self.full_height])
        centre = boxes[..., :2] * span + boxes.new_tensor([self.left, self.top])
        half = boxes[..., 2:] * span / 2
        low, high = ((corner / full).clamp(0, 1) for corner in (centre - half, centre + half))
        return torch.cat([(low + high) / 2, high - low], -1)


def test_view(image: np.ndarray, size: int, crop: bool = False) -> tuple:
    """An image (H, W, 3) uint8 with its shorter side scaled to `size`, the longer at most 4 · size.

    Returns the view (3, h, w), its padding (h, w), all False, and its `View`. With `crop` it is
    the central (3, size, size)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    w, h = (min(round(side * scale), WIDEST * size) for side in (width, height))
    resized = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    view = View(0, 0, w, h, w, h)
    if crop:
        view = View((w - size) // 2, (h - size) // 2, size, size, w, h)
        resized = resized.crop((view.left, view.top, view.left + size, view.top + size))
    return _normalise(resized), torch.zeros(view.height, view.width, dtype=torch.bool), view


test_view.__test__ = False  # not a test of pytest's


def _corners(box, width: int, height: int) -> tuple[float, float, float, float]:
    cx, cy, w, h = (float(v) for v in box)
    return (max(0., cx - w / 2) * width, max(0., cy - h / 2) * height,
            min(1., cx + w / 2) * width, min(1., cy + h / 2) * height)


def _crop(low: float, high: float, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """A random part of [0, side] that holds [low, high]."""
    length = max(rng.uniform(*CROP) * side, high - low)
    first = max(0., high - length)
    start = rng.uniform(first, max(first, min(low, side - length)))
    return start, min(start + length, side)


def _other_side(match: re.Match) -> str:
    word = match[0]
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _normalise(image: Image.Image) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32."""
    planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # slow on axes of 3
    return torch.from_numpy(planes * GAIN - BIAS)
