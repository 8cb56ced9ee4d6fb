"""Readers of TURN's training sets, as published: RefCOCO, RefCOCO+, RefCOCOg, Clotho, AudioCaps.

    ROOT/refcoco/refs(unc).p, instances.json             likewise refcoco+/ and refcocog/
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg
    ROOT/clotho_captions_development.csv, development/NAME.wav
    ROOT/train.csv, audio/train/ID_START.wav             AudioCaps (or dataset/train.csv)

A reader parses the lists and checks that the files exist. It opens no image and no audio. Raises
InputError, also for the first bad entry; with `skip_bad` all are printed and left out.
"""
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.io import InputError, decoding, inside, read_bytes, read_csv, read_json
from common.training import dist

MAX_PICKLE = 1 << 28  # bytes; the published ones have less than 2^26
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "google"}  # as TURN's released code
COCO = "images/mscoco/images/train2014"
AUDIOCAPS_NAMES = ("{id}_{start}", "{id}", "Y{id}_{start}", "Y{id}")  # of different downloaders


class Phrase(NamedTuple):
    """A phrase, and the box of what it refers to: cx, cy, w, h, each in [0, 1]."""
    image: Path
    phrase: str
    box: tuple[float, float, float, float]
    id: str


class Clip(NamedTuple):
    """An audio file and all its captions."""
    audio: Path
    captions: tuple[str, ...]
    id: str


class BadEntry(Exception):
    """What is wrong with one entry of a list."""


def refcoco(root, name: str = "refcocog", split: str = "train", split_by: str | None = None,
            skip_bad: bool = False) -> list[Phrase]:
    """A `Phrase` for each sentence of refcoco, refcoco+ or refcocog.
    split: train, val, and test (refcocog by umd) or testA, testB (unc). split_by: see SPLIT_BY."""
    if name not in SPLIT_BY:
        raise ValueError(f"name {name!r} is none of {', '.join(SPLIT_BY)}")
    path = inside(root, f"{name}/refs({split_by or SPLIT_BY[name]}).p")
    refs = _unpickle(path)
    coco_path = inside(root, f"{name}/instances.json")
    coco = read_json(coco_path)
    try:
        images, annotations = ({entry["id"]: entry for entry in coco[key]}
                               for key in ("images", "annotations"))
    except (LookupError, TypeError) as error:
        raise InputError(coco_path, f"not in COCO's layout ({error})") from None
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise InputError(path, "not a list of references")
    refs = [ref for ref in refs if ref.get("split") == split]
    folder = _Folder(inside(root, COCO))
    return _collect(path, split, refs, skip_bad,
                    lambda ref: _phrases(folder, images, annotations, ref))


def clotho(root, split: str = "development", skip_bad: bool = False) -> list[Clip]:
    """A `Clip` with five captions for each file. split: development, validation or evaluation."""
    path, folder = inside(root, f"clotho_captions_{split}.csv"), _Folder(inside(root, split))
    columns = "file_name", *(f"caption_{i}" for i in range(1, 6))

    def clip(row):
        name, *captions = (row[column] for column in columns)
        return [Clip(folder.file(name), _stripped(captions), name)]
    return _collect(path, split, read_csv(path, columns), skip_bad, clip)


def audiocaps(root, split: str = "train", skip_bad: bool = False) -> list[Clip]:
    """A `Clip` with its captions: one in train, up to five, in as many rows, in val and test.
    Files are named after YouTube's id and the start in seconds, see AUDIOCAPS_NAMES."""
    path, folder = inside(root, f"{split}.csv"), _Folder(inside(root, f"audio/{split}"))
    if not path.exists():
        path = inside(root, f"dataset/{split}.csv")
    captions = {}  # (id, start): all of the clip
    for row in read_csv(path, ("youtube_id", "start_time", "caption")):
        captions.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])

    def clip(key):
        names = [name.format(id=key[0], start=key[1]) + suffix
                 for name in AUDIOCAPS_NAMES for suffix in (".wav", ".flac")]
        return [Clip(folder.file(*names), _stripped(captions[key]), "_".join(key))]
    return _collect(path, split, list(captions), skip_bad, clip)


def _collect(path, split: str, entries: list, skip_bad: bool, parse: Callable) -> list:
    """The items of all entries."""
    items, bad = [], []
    for number, entry in enumerate(entries, 1):
        try:
            items += parse(entry)
        except BadEntry as reason:
            bad.append(f"{split} entry {number}: {reason}")
    if bad and not skip_bad:
        raise InputError(path, f"{bad[0]} ({len(bad)} of {len(entries)} entries are bad)")
    if not items:
        raise InputError(path, f"nothing usable in split {split!r}")
    for line in bad if dist.rank() == 0 else ():
        print("left out:", line)
    return items


class _Folder:
    """The files of a folder, listed once. No name can lead out of it."""

    def __init__(self, path: Path):
        try:
            self.path, self.names = path, frozenset(os.listdir(path))
        except OSError as error:
            raise InputError(path, error.strerror) from None

    def file(self, *names: str) -> Path:
        """The first of these files."""
        for name in names:
            if name in self.names:
                return inside(self.path, name)
        raise BadEntry(f"no file {names[0]} in {self.path}")


def _stripped(captions) -> tuple[str, ...]:
    captions = tuple(caption.strip() for caption in captions)
    if not all(captions):
        raise BadEntry("an empty caption")
    return captions


def _phrases(folder: _Folder, images: dict, annotations: dict, ref: dict) -> list[Phrase]:
    """The phrases of a reference. The box is clipped to the image."""
    name = f"ref_id {ref.get('ref_id')}"
    try:
        image = images[ref["image_id"]]
        width, height = float(image["width"]), float(image["height"])
        left, top, w, h = (float(v) for v in annotations[ref["ann_id"]]["bbox"])
        sentences = [(str(s["sent"]).strip(), str(s["sent_id"])) for s in ref["sentences"]]
        path = folder.file(str(image["file_name"]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BadEntry(f"{name}: {type(error).__name__}: {error}") from None
    x0, y0, x1, y1 = max(left, 0.), max(top, 0.), min(left + w, width), min(top + h, height)
    if not (x0 < x1 <= width and y0 < y1 <= height):  # False for NaN
        raise BadEntry(f"{name}: box {left, top, w, h} has no area in {width} x {height}")
    if not all(phrase for phrase, _ in sentences):
        raise BadEntry(f"{name}: an empty phrase")
    box = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    return [Phrase(path, phrase, box, sent_id) for phrase, sent_id in sentences]


class _PlainUnpickler(pickle._Unpickler):
    """Lists, dicts, strings and numbers; whatever names a class or a function is refused.
    It is the one in Python, slower by seconds: that in C allocates gigabytes if 5 bytes say so."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}")


def _unpickle(path):
    with decoding(path):
        data = io.BytesIO(read_bytes(path, MAX_PICKLE))
        # Python 2 wrote them: plain strings are bytes.
        return _PlainUnpickler(data, encoding="utf-8", errors="replace").load()
