"""Interactive benchmarks in IS3's layout, written and read: sslalign, 4.1.1 and Table I.

    ROOT/images/N.jpg, audio_waw/N.wav, gt_segmentation/N.png   of each object
    ROOT/IS3_annotation.json                                boxes and categories, as in the archive
    ROOT/metadata/synthetic3240_bbox.json, …_seg.json       the lists of the authors' repository
    ROOT/metadata/IS3_annotation.json, IS3_class_files_dict.json, ROOT/audio_wav (a link to
    audio_waw)    what the evaluator of Juanola et al. opens, arXiv 2410.01020

N is CLASS_CLASS_NUMBER_CLASS: the classes of the image without spaces, a number, and the object's
class. Each object has a copy of its image. Boxes are pixels of GRID × GRID, paths relative to ROOT.
The keys of IS3_annotation.json are not published: it is read as a list of objects with image,
audio, gt_box or bbox, and perhaps category.
"""
import os
import shutil
from itertools import combinations, cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.io import InputError, read_audio, read_image, write_audio, write_image, write_json

from .annotations import check_name, parse_boxes, read_entries

IMAGES, AUDIO, MASKS, ARCHIVE = "images", "audio_waw", "gt_segmentation", "IS3_annotation.json"
GRID = 224  # boxes of IS3, VPO and AVSBench are pixels of an image of this size
RATE, SECONDS = 16000, 10  # of audio; the authors' evaluator takes 16 000 samples for a second


class Object(NamedTuple):
    """An object in an image, and audio of its class."""
    category: str  # see `category_name`
    mask: np.ndarray  # (H, W) bool
    waveform: np.ndarray  # (n,) at RATE


def read_mask(path, size: int | None = None) -> np.ndarray:
    """(H, W) bool, or resized (size, size): pixels of 128 or more, since masks may be JPEGs; of a
    cut-out on transparent ground, the opaque."""
    image = Image.fromarray(read_image(path, "RGBA"))
    alpha = image.getchannel("A")
    mask = alpha if alpha.getextrema()[0] < 255 else image.convert("L")
    if size:  # resized first, as in sslalign's evaluator
        mask = mask.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(mask) >= 128


def mask_to_box(mask, side: int) -> np.ndarray:
    """The smallest box around a mask stretched to side × side pixels: (H, W) bool → (4,) int.

    x1 and y1 are the first pixels behind it. An empty mask has the box 0, 0, 0, 0.

    >>> mask_to_box(np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]]) > 0, side=6)
    array([2, 2, 6, 6])
    """
    x0, y0, x1, y1 = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
    height, width = mask.shape
    return np.array([x0 * side // width, y0 * side // height,
                     -(-x1 * side // width), -(-y1 * side // height)])


def category_name(path, text: str) -> str:
    """A class as it stands in names of files: in lower case, with spaces for underscores and dots,
    at which other readers split names. path: where it is from. InputError without any letter."""
    name = " ".join(text.lower().replace("_", " ").replace(".", " ").split())
    if not any(letter.isalpha() for letter in name):  # a number would be taken for the image's
        raise InputError(path, f"{text[:80]!r} is no class: it has no letter")
    return check_name(path, name)


def find_images(images, masks) -> dict:
    """Image → {class: mask} of two folders. A mask is of the image with the longest name that it
    begins with. Raises InputError for a mask without image, and names that occur twice."""
    paths = [path for path in sorted(Path(images).glob("*"))
             if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
    by_name, found = {path.stem: path for path in paths}, {path: {} for path in paths}
    if not paths or len(by_name) < len(paths):
        raise InputError(images, "no folder of .png, .jpg or .webp images with different names")
    for mask in sorted(Path(masks).glob("*.png")):
        words = mask.stem.split("_")
        ends = [n for n in range(1, len(words)) if "_".join(words[:n]) in by_name]
        if not ends:
            raise InputError(mask, f"no image in {images} has this name without _CLASS")
        category = category_name(mask, " ".join(words[ends[-1]:]))
        image = by_name["_".join(words[:ends[-1]])]
        if found[image].setdefault(category, mask) != mask:
            raise InputError(mask, f"another mask is of the same image and class {category!r}")
    return found


class AudioPool:
    """Audio by class: files FOLDER/CLASS/*.wav, .flac or .ogg. Raises InputError."""

    def __init__(self, folder, seed: int = 0):
        self.folder, files, rng = Path(folder), {}, np.random.default_rng(seed)
        if not self.folder.is_dir():
            raise InputError(folder, "no such folder of audio, with a folder for each class")
        for path in sorted(self.folder.glob("*/*")):
            if path.suffix.lower() in (".wav", ".flac", ".ogg"):
                category = category_name(path.parent, path.parent.name)
                files.setdefault(category, []).append(path)
        self.files = {category: cycle(rng.permutation(files[category])) for category in files}

    def draw(self, path, category: str) -> np.ndarray:
        """The first SECONDS of the next file of the class, in random order and round again, (n,)
        float32 at RATE. path: for what. Raises InputError."""
        if category not in self.files:
            raise InputError(path, f"no audio of the class {category!r} in {self.folder}")
        file = next(self.files[category])
        waveform = read_audio(file, RATE, seconds=SECONDS)[0].numpy()
        if not np.abs(waveform).max() > 1e-4:
            raise InputError(file, "the audio is silent")
        return waveform


def check_objects(path, image, objects) -> None:
    """Raises InputError unless an image (H, W, 3) has two objects or more, each of another class,
    with masks of its size of which none is empty or wholly within another. path: the image's."""
    names = [category for category, _, _ in objects]
    if len(set(names)) < max(len(names), 2):
        text = ", ".join(names) or "none"
        raise InputError(path, f"two objects of different classes are needed (found: {text})")
    for category, mask, _ in objects:
        if mask.shape != image.shape[:2]:
            sizes = [f"{x.shape[1]}×{x.shape[0]}" for x in (mask, image)]
            raise InputError(path, f"the mask of {category} has {sizes[0]} pixels, not {sizes[1]}")
        if not mask.any():
            raise InputError(path, f"the mask of {category} is empty: no pixel is 128 or more")
    for (a, first, _), (b, second, _) in combinations(objects, 2):
        if (first & second).sum() == min(first.sum(), second.sum()):
            raise InputError(path, f"the masks of {a} and {b} overlap wholly")


def write_is3(root, images) -> None:
    """Write a benchmark to the new folder `root`, whole or not at all.

    images: for each image where it is from, (H, W, 3) uint8, and its Objects. Raises InputError,
    see `check_objects`, or if there is no image or `root` exists."""
    root = Path(root).absolute()
    if root.exists() or root.is_symlink():
        raise InputError(root, "exists already; a new folder is written")
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    boxes, masks, archive, names = [], [], [], {}
    try:
        for number, (path, image, objects) in enumerate(images):
            check_objects(path, image, objects)
            group = "_".join(category.replace(" ", "") for category, _, _ in objects)
            for category, mask, waveform in objects:
                name = check_name(path, f"{group}_{number:05d}_{category}")
                files = {"image": f"{IMAGES}/{name}.jpg", "audio": f"{AUDIO}/{name}.wav"}
                write_image(part / files["image"], image)
                write_audio(part / files["audio"], waveform, RATE)
                write_image(part / MASKS / f"{name}.png", mask.astype(np.uint8) * 255)
                boxes.append({**files, "gt_box": mask_to_box(mask, GRID).astype(float)})
                masks.append({**files, "gt_box": f"{MASKS}/{name}.png", "offset": 1})
                archive.append({**boxes[-1], "category": category, "origin": Path(path).name})
                names.setdefault(category, []).append(name)
        if not boxes:
            raise InputError(root, "there is no image to write")
        for file, content in ((ARCHIVE, archive), (f"metadata/{ARCHIVE}", archive),
                              ("metadata/synthetic3240_bbox.json", boxes),
                              ("metadata/synthetic3240_seg.json", masks),
                              ("metadata/IS3_class_files_dict.json", names)):
            write_json(part / file, content)
        (part / "audio_wav").symlink_to(AUDIO)
        os.rename(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_archive(path) -> list[dict]:
    """The objects in IS3_annotation.json, as in the repository's list. Raises InputError."""
    entries = read_entries(path, image=str, audio=str)
    for n, entry in enumerate(entries):
        box = entry.get("gt_box", entry.get("bbox"))
        if not (isinstance(box, list) and isinstance(entry.get("category", ""), str)):
            raise InputError(path, f"entry {n} has {', '.join(entry)[:200]}: gt_box or bbox must be"
                                   " a list, category a string")
        if parse_boxes(path, f"entry {n}", [box]).max() > GRID:
            raise InputError(path, f"entry {n}: a box beyond {GRID} pixels; put synthetic3240_bbox"
                                   ".json of the authors' repository into metadata/")
        entry["gt_box"] = box
    return entries


def statistics(samples) -> dict:
    """The columns of Table I: images, classes, whether an image has several objects, instances (an
    object with its audio), whether all have boxes and masks."""
    images, classes, no_yes = {s.group for s in samples}, {s.label for s in samples}, ("no", "yes")
    return {"# Data": len(images), "# Classes": len(classes - {None}),
            "Multi-Object": no_yes[len(images) < len(samples)], "# Instance": len(samples),
            "BBox": no_yes[all(s.boxes is not None for s in samples)],
            "Seg.": no_yes[all(s.masks for s in samples)]}
