"""Pictures on their way into a model: the view for training, the view for evaluation (EZ-VSL and the released evaluations).

All that is random is drawn from the caller's generator, one for each sample, so that a sample's view depends on nothing else.
"""
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def draw_view(size: int, rng: np.random.Generator) -> tuple[int, int, bool]:
    """Left and top of the part that `train_view` takes, of a square 1.1 times as large as `size`, and whether it is mirrored."""
    x, y = rng.integers(0, round(1.1 * size) - size + 1, 2)
    return int(x), int(y), bool(rng.random() < 0.5)


def train_view(image: np.ndarray, size: int, drawn: tuple[int, int, bool]) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) uint8: squeezed into a square 1.1 times as large, a part of it, mirrored or not, as
    `draw_view` has drawn."""
    x, y, mirrored = drawn
    large = round(1.1 * size)
    view = Image.fromarray(image).resize((large, large), Image.Resampling.BICUBIC).crop((x, y, x + size, y + size))
    return planes(view, mirrored)


def planes(view: Image.Image, mirrored: bool) -> torch.Tensor:
    """A picture of Pillow's → (3, H, W) uint8, mirrored or not."""
    x = torch.from_numpy(np.array(view)).permute(2, 0, 1)
    return x.flip(2).contiguous() if mirrored else x.contiguous()


def test_view(image: np.ndarray, size: int) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) float32 in units of [0, 1], not clamped where the bicubic filter overshoots.

    The released evaluation: a tensor first, then resized with antialiasing. 0.02 from resizing the picture with Pillow.
    """
    planes = torch.from_numpy(image).permute(2, 0, 1).float() / 255  # (3, H, W)
    if planes.shape[1:] == (size, size):
        return planes
    return F.interpolate(planes[None], (size, size), mode="bicubic", align_corners=False, antialias=True)[0]


test_view.__test__ = False  # it is no test, whatever pytest thinks of its name


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W), uint8 or float in [0, 1] → float32 with ImageNet's mean and deviation, on the images' device."""
    mean, std = _statistics(images.device)
    return (images.float() / (255 if images.dtype == torch.uint8 else 1) - mean) / std


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _statistics(device: torch.device):
    """Kept on the device: making them there would let a GPU wait at every step."""
    return tuple(torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD))
