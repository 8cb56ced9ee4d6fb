"""Image files in and out."""
from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import to_numpy
from .files import InputError, atomic, decoding

MAX_PIXELS = 64 * 2**20
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not all that Pillow knows: EPS starts a program
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation → Image.Transpose


def read_image(path, mode="RGB"):
    """A picture as uint8: (H, W, 3) for "RGB", (H, W, 4) for "RGBA", (H, W) for "L"; the first frame of several.

    EXIF orientation is applied. Where "RGB" or "L" is asked, transparency is laid over white. 16-bit grey is scaled.
    Raises InputError for what is not a picture, is cut short, or has more than MAX_PIXELS.
    """
    if mode not in ("RGB", "RGBA", "L"):
        raise ValueError(f"mode is 'RGB', 'RGBA' or 'L', not {mode!r}")
    with decoding(path), Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(path, f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(0x0112))
        if image.mode == "F" or image.mode.startswith("I"):
            deep = np.asarray(image)  # (H, W)
            if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
                raise InputError(path, "more than 16 bits a pixel: no known range")
            image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if mode != "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        return np.array(image if turn is None else image.transpose(turn))


def write_image(path, array):
    """Write uint8 (H, W), (H, W, 3) or (H, W, 4): JPEG where the name ends in .jpg or .jpeg, PNG otherwise."""
    array = to_numpy(array)
    if array.dtype != np.uint8:
        raise ValueError(f"a picture is uint8, not {array.dtype}")
    jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    with atomic(path) as file:
        Image.fromarray(array).save(file, **({"format": "JPEG", "quality": 95} if jpeg else {"format": "PNG"}))
