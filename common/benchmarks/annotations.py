"""Pieces of published annotation files → checked values. Whatever is malformed is an InputError that names the file."""
import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath

import numpy as np

from common.io import InputError, read_json, read_lines

MAX_BOXES, MAX_XML = 1000, 2**20  # of one picture; bytes


def metadata(root, *names) -> Path:
    """The first of these files in ROOT/metadata or ROOT; InputError if there is none."""
    places = [base / name for name in names for base in (Path(root) / "metadata", Path(root))]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise InputError(places[0], "no such file: the published annotation file or list goes here")
    return found


def rows(path) -> list[list[str]]:
    """Of a CSV file, without a header that starts with "video"."""
    try:
        return [row for row in csv.reader(read_lines(path)) if row[0] != "video"]
    except csv.Error as error:
        raise InputError(path, error) from error


def ids(path) -> list[str]:
    """The first column of a list, each once, in its order, in the spelling of the files on disk."""
    return list(dict.fromkeys(file_name(path, clip_id(row[0])) for row in rows(path)))


def clip_id(name) -> str:
    """`glLQrEijrKg_000300.mp4`, or with the milliseconds of sslalign's list `glLQrEijrKg_300000_310000` → glLQrEijrKg_000300."""
    name = name.strip().removesuffix(".mp4")
    clip = re.fullmatch(r"(.{11})_(\d+)_\d+", name)
    return f"{clip[1]}_{int(clip[2]) // 1000:06d}" if clip else name


def file_name(path, name) -> str:
    """`name`, if it names a file in a folder and nowhere else; the InputError is about the annotation file at `path`."""
    if not 0 < len(name) <= 200 or name in (".", "..") or not name.isprintable() or re.search(r"[/\\]", name):
        raise InputError(path, f"not an id: {name[:80]!r}")
    return name


def tail(path, folders) -> PurePosixPath:
    """What follows the data set's own folder in a path of another machine, or else the file's name."""
    parts = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    known = [n for n, part in enumerate(parts[:-1]) if part in folders]
    return PurePosixPath(*parts[known[-1] + 1:] if known else parts[-1:])


def entries(path, **fields):
    """The objects of a JSON list, each of which has these keys with values of these types."""
    values = read_json(path)
    if not isinstance(values, list):
        raise InputError(path, "not a list of annotations")
    for n, entry in enumerate(values):
        for key, kind in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise InputError(path, f"entry {n} has no {key} that is a {kind.__name__}")
    return values


def boxes(path, name, values) -> np.ndarray:
    """Lists of four numbers → (n, 4) float64."""
    if not values:
        return np.zeros((0, 4))
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    if array.ndim != 2 or array.shape[1] != 4 or len(array) > MAX_BOXES or not np.isfinite(array).all():
        raise InputError(path, f"{name}: a box is four finite numbers, not {str(values)[:80]}")
    return array


def from_grid(pixels, side) -> np.ndarray:
    """Pixels of a side×side picture, truncated to integers → [0, 1], one unit up in the last place, so that times `side` and
    truncated again they come back (61 / 224 * 224 is 60.99…)."""
    array = np.trunc(pixels) / side
    return np.where(array > 0, np.nextafter(array, np.inf), array)


def clip(array) -> np.ndarray:
    """Boxes into [0, 1], without those that then have no area: VGG-SS has edges at -2.9e16, AVSBench boxes 0, 0, 0, 0."""
    array = array.clip(0, 1)
    return array[(array[:, 2:] > array[:, :2]).all(1)]


def annotators(path) -> tuple:
    """Flickr-SoundNet's XML: an element an annotator, in each `bbox`es of something, then x0 y0 x1 y1, integers of a 256 grid.

    → one (n, 4) array an annotator, in [0, 1] (exactly: 256 is a power of two) where the annotator stayed in the picture.
    """
    if path.stat().st_size > MAX_XML:
        raise InputError(path, f"more than {MAX_XML} bytes")
    data = path.read_bytes()
    if b"<!" in data.replace(b"<!--", b""):  # a DOCTYPE can define entities that grow without end
        raise InputError(path, "declarations are not read here")
    try:
        people = [[[int(edge.text) for edge in box[1:]] for box in entry.findall("bbox")] for entry in ET.fromstring(data)]
    except (ET.ParseError, ValueError, TypeError) as error:
        raise InputError(path, error) from error
    return tuple(boxes(path, "bbox", votes) / 256 for votes in people if votes)
