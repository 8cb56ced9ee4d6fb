"""Image files in and out."""
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .files import InputError, atomic, decoding, read_bytes, to_numpy

MAX_PIXELS, MAX_SCANNED = 64 * 10**6, 2**32  # half for WebP; pixels times scans, of JPEG
SUFFIXES = ".jpg", ".jpeg", ".png", ".webp", ".bmp"  # of the images in a folder
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # EPS would start a program


def read_image(path, mode="RGB"):
    """Decode an image to uint8: (H, W, 3) for "RGB", (H, W, 4) for "RGBA", (H, W) for "L".

    The first frame of an animation. EXIF orientation is applied. "RGB" and "L" lay transparent
    pixels over white. 16-bit grey is scaled to 8 bits. Raises InputError for a file that is not an
    image, is cut short, or is larger than the bounds above."""
    with decoding(path), Image.open(path, formats=_FORMATS) as image:
        pixels = image.width * image.height
        limit = MAX_PIXELS // 2 if image.format == "WEBP" else MAX_PIXELS
        if pixels > limit:
            raise InputError(path, f"{pixels} pixels, more than {limit}")
        if image.info.get("progressive") and pixels * _count_scans(path) > MAX_SCANNED:
            raise InputError(path, f"{_count_scans(path)} scans of {pixels} pixels are too many")
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            deep = np.asarray(image)  # (H, W)
            if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
                raise InputError(path, "more than 16 bits a pixel: its range is unknown")
            image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if mode != "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert(mode))


def _count_scans(path):
    """At least the number of a JPEG's scans: in coded data a zero follows a byte 255."""
    return read_bytes(path, MAX_SCANNED >> 3).count(b"\xff\xda")


def write_image(path, array):
    """Write uint8 (H, W), (H, W, 3) or (H, W, 4): a JPEG if `path` ends so, else a PNG."""
    array = to_numpy(array)
    if array.dtype != np.uint8:
        raise ValueError(f"an image is uint8, not {array.dtype}")
    kind = "JPEG" if Path(path).suffix.lower() in (".jpg", ".jpeg") else "PNG"
    with atomic(path) as file:
        Image.fromarray(array).save(file, kind, quality=95)  # of a JPEG


def numbered_images(folder) -> list:
    """The images of a folder, sorted by the last number in their names. Raises InputError."""
    paths = {}
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InputError(path, "a frame's name has its number in it, as 0012.jpg")
        if (number := int(digits[-1])) in paths:
            raise InputError(path, f"has the number of {paths[number].name}")
        paths[number] = path
    if not paths:
        raise InputError(folder, f"no frame in it ({', '.join(SUFFIXES)})")
    numbers = sorted(paths)
    if gaps := [low for low, high in pairwise(numbers) if high > low + 1]:
        raise InputError(folder, f"frame {gaps[0] + 1} is missing, before {numbers[-1]}")
    return [paths[number] for number in numbers]
