"""Images on their way into a model: the view for training and the view for evaluation.

Both are EZ-VSL's and those of the authors' evaluations. All that is random is drawn from the
caller's generator, one for each sample, so that a sample's view depends on nothing else.
"""
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def draw_view(size: int, rng: np.random.Generator) -> tuple[int, int, bool]:
    """Left and top of the crop that `train_view` takes, and whether it is mirrored."""
    x, y = rng.integers(0, enlarged(size) - size + 1, 2)
    return int(x), int(y), bool(rng.random() < 0.5)


def enlarged(size: int) -> int:
    """The side of the square of which a view of `size` is a crop."""
    return round(1.1 * size)


def train_view(image: np.ndarray, size: int, crop: tuple[int, int, bool]) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) uint8, a crop of the image, squeezed into a larger square.

    crop: what `draw_view` has drawn."""
    x, y, is_mirrored = crop
    square = (enlarged(size), enlarged(size))
    view = Image.fromarray(image).resize(square, Image.Resampling.BICUBIC)
    return to_planes(view.crop((x, y, x + size, y + size)), is_mirrored)


def to_planes(view: Image.Image, is_mirrored: bool) -> torch.Tensor:
    """A Pillow image → (3, H, W) uint8, mirrored or not."""
    x = torch.from_numpy(np.array(view)).permute(2, 0, 1)
    return x.flip(2).contiguous() if is_mirrored else x.contiguous()


def test_view(image: np.ndarray, size: int) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) float32 in units of [0, 1], where bicubic may overshoot.

    As in SSL-Align's evaluation a tensor is resized, with antialiasing; Pillow's result differs by
    0.02."""
    x = torch.from_numpy(image).permute(2, 0, 1).float() / 255  # (3, H, W)
    if x.shape[1:] == (size, size):
        return x
    return F.interpolate(x[None], (size, size), mode="bicubic", align_corners=False,
                         antialias=True)[0]


test_view.__test__ = False  # it is no test, whatever pytest thinks of its name


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W), uint8 or float in [0, 1] → float32, (x − mean) / std of ImageNet's colours."""
    mean, std = _statistics(images.device)
    return (images.float() / (255 if images.dtype == torch.uint8 else 1) - mean) / std


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _statistics(device: torch.device):
    """On the device, once: making them there would let a GPU wait at every step."""
    return tuple(torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD))
