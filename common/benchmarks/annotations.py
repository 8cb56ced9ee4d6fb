"""Parsers of what published annotation files have in common. Anything malformed is an InputError.

>>> clip_id("glLQrEijrKg_300000_310000.mp4")
'glLQrEijrKg_000300'
>>> int(61 / 224 * 224), int(from_grid(61, 224) * 224)  # a pixel of a grid, there and back
(60, 61)
"""
import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath

import numpy as np

from common.io import InputError, decoding, read_bytes, read_json, read_lines

MAX_BOXES, MAX_XML = 1000, 2**20  # of one image; bytes


def find_metadata(root, *names, optional=False) -> Path | None:
    """The first of these files in ROOT/metadata or ROOT; if there is none, InputError or None."""
    paths = [base / name for name in names for base in (Path(root) / "metadata", Path(root))]
    path = next((path for path in paths if path.is_file()), None)
    if path is None and not optional:
        raise InputError(paths[0], "no such file; the published annotation file or list goes here")
    return path


def read_rows(path) -> list[list[str]]:
    """The rows of a CSV file, without the header: it starts with "video" or "keyword", if any."""
    with decoding(path):  # line by line, so that a stray quote is an error and takes no other line
        rows = [next(csv.reader([line], strict=True)) for line in read_lines(path)]
        return [row for row in rows if row[0] not in ("video", "keyword")]


def check_rows(path, rows, columns: str, numbers=(), separator=",") -> list:
    """The rows, if each has these columns, with digits in those whose indices are in `numbers`."""
    for row in rows:
        is_complete = len(row) == len(columns.split(separator))
        if not is_complete or not all(row[n].isdecimal() for n in numbers):
            raise InputError(path, f"a row is {columns}, not {separator.join(row)[:80]}")
    return rows


def read_ids(path) -> list[str]:
    """The ids in the first column of a list, without repetitions."""
    return list(dict.fromkeys(check_name(path, clip_id(row[0])) for row in read_rows(path)))


def clip_id(name: str) -> str:
    """A name in a list → the name of the files on disk, YOUTUBEID_SECONDS.
    Lists, and other files, have a suffix behind it, or start and end in milliseconds."""
    name = re.sub(r"\.(mp4|flac|wav|jpg)$", "", name.strip())
    clip = re.fullmatch(r"(.{11})_(\d+)_\d+", name)
    return f"{clip[1]}_{int(clip[2]) // 1000:06d}" if clip else name


def check_name(path, name: str) -> str:
    """`name`, if it is the name of a file, without a folder. path: the annotation file it is in."""
    is_name = 0 < len(name) <= 200 and name.isprintable() and not re.search(r"[/\\]", name)
    if not is_name or name in (".", ".."):
        raise InputError(path, f"not an id: {name[:80]!r}")
    return name


def relative_path(path: str, folders) -> PurePosixPath:
    """The part of an absolute path of another machine behind one of `folders`, or its last part."""
    parts = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    found = [n for n, part in enumerate(parts[:-1]) if part in folders]
    return PurePosixPath(*parts[found[-1] + 1:] if found else parts[-1:])


def read_entries(path, **fields) -> list[dict]:
    """The objects of a JSON list. fields: the keys that each must have, and their types."""
    entries = read_json(path, list)
    for n, entry in enumerate(entries):
        for key, kind in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise InputError(path, f"entry {n} has no {key} that is a {kind.__name__}")
    return entries


def parse_boxes(path, name, values) -> np.ndarray:
    """Lists of four numbers → (n, 4) float64."""
    if not values:
        return np.zeros((0, 4))
    try:
        boxes = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.zeros(0)
    is_box = boxes.ndim == 2 and boxes.shape[1] == 4 and np.isfinite(boxes).all()
    if not is_box or len(boxes) > MAX_BOXES:
        raise InputError(path, f"{name}: a box is four finite numbers, {MAX_BOXES} at most, not "
                         f"{str(values)[:80]}")
    return boxes


def from_grid(pixels, side: int) -> np.ndarray:
    """Pixels of a side × side image, truncated to integers → [0, 1].
    The values are rounded up, so that times `side` and truncated they are the same pixels again."""
    array = np.trunc(pixels) / side
    return np.where(array > 0, np.nextafter(array, np.inf), array)


def clip_boxes(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) clipped to [0, 1], without those that then have no area.
    VGG-SS has edges at -2.9e16, AVSBench the box 0, 0, 0, 0 where nothing sounds."""
    boxes = boxes.clip(0, 1)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def read_xml(path, limit: int) -> ET.Element:
    """The root of an XML file of at most `limit` bytes, in UTF-8, without entities. InputError."""
    with decoding(path):
        data = read_bytes(path, limit).decode("utf-8")
        if "<!" in data.replace("<!--", ""):  # a DOCTYPE can define entities without bound
            raise InputError(path, "XML declarations are not supported")
        return ET.fromstring(data.encode())


def read_annotators(path) -> np.ndarray:
    """Flickr-SoundNet's XML → (n, 4) boxes of all annotators, in [0, 1] unless drawn beyond.
    An element for each annotator has some <bbox>: a name, then x0, y0, x1, y1 of a 256 grid. As
    published all boxes count, two of one annotator too."""
    with decoding(path):
        boxes = [[int(edge.text) for edge in box[1:]]
                 for person in read_xml(path, MAX_XML) for box in person.findall("bbox")]
    return parse_boxes(path, "bbox", boxes) / 256
