"""TURN's training sets, as published: RefCOCO, RefCOCO+, RefCOCOg with Clotho or AudioCaps.

    ROOT/refcoco/refs(unc).p, instances.json             likewise refcoco+/ and refcocog/
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg
    ROOT/clotho_captions_development.csv, development/NAME.wav       and validation
    ROOT/train.csv, audio/train/ID_START.wav             AudioCaps (or dataset/train.csv)

A reader parses the lists and checks that the files exist. It opens no image and no audio. Raises
InputError, also for the first bad entry; with `skip_bad` all are printed and left out.
"""
import io
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.io import (InputError, decoding, read_audio, read_bytes, read_csv, read_image,
                       read_json)
from common.training import dist

from .pairs import check_source
from .samples import readable_samples

MAX_PICKLE = 1 << 28  # bytes; the published ones have less than 2^26
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "google"}  # as TURN's released code:
# images of refcocog's google split are in train and val at once, those of umd are not
COCO = "images/mscoco/images/train2014"
# Of AudioCaps' files, after YouTube's id and the start in seconds, by different downloaders.
AUDIOCAPS_NAMES = ("{id}_{start}", "{id}", "Y{id}_{start}", "Y{id}")
FAULTS = (LookupError, TypeError, ValueError, OverflowError)  # of an entry of a list


class Phrase(NamedTuple):
    """A phrase, and the box of what it refers to: cx, cy, w, h, each in [0, 1]."""
    image: Path
    phrase: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]  # width and height that box is of; the image's own may differ


class Clip(NamedTuple):
    """An audio file and all its captions."""
    audio: Path
    captions: tuple[str, ...]


def load_corpora(config, split: str) -> tuple[list[Phrase], list[Clip]]:
    """The phrases and clips of config.data, "SOURCE+INTERMEDIATE"; split: train or val."""
    source, _, intermediate = config.data.rpartition("+")  # refcoco+ ends in one too
    readers = {"clotho": clotho, "audiocaps": audiocaps}
    if source not in SPLIT_BY or intermediate not in readers:
        raise InputError("--data", f"{config.data!r} is neither scenes nor SOURCE+INTERMEDIATE of "
                         f"{', '.join(SPLIT_BY)} and {', '.join(readers)}")
    check_source(config)
    phrases = refcoco(config.root, source, split, config.refcoco_split, config.skip_bad)
    clips = readers[intermediate](config.root, split, config.skip_bad)
    if config.skip_bad:
        sizes = {phrase.image: phrase.size for phrase in phrases}
        phrases = readable_samples(phrases, "image", lambda path: read_sized(path, sizes[path]))
        clips = readable_samples(clips, "audio", partial(read_audio, seconds=config.seconds))
    return phrases, clips


def read_sized(path, size):
    """An image (H, W, 3), whose boxes are of this width and height. Raises InputError."""
    image = read_image(path)
    if image.shape[1::-1] != size:
        raise InputError(path, f"is not of {size} pixels, as instances.json has it")
    return image


def refcoco(root, name: str = "refcocog", split: str = "train", split_by: str = "",
            skip_bad: bool = False) -> list[Phrase]:
    """A `Phrase` for each sentence of refcoco, refcoco+ or refcocog.
    split: train, val, and test (refcocog by umd) or testA, testB (unc). split_by: see SPLIT_BY."""
    path = Path(root, name, f"refs({split_by or SPLIT_BY[name]}).p")
    with decoding(path):
        refs = [ref for ref in _unpickle(path) if ref.get("split") == split]
    coco_path = Path(root, name, "instances.json")
    with decoding(coco_path):
        coco = read_json(coco_path)
        images, annotations = ({entry["id"]: entry for entry in coco[key]}
                               for key in ("images", "annotations"))
    find = _finder(Path(root, COCO))
    return _collect(path, split, refs, skip_bad, partial(_phrases, find, images, annotations))


def clotho(root, split: str = "train", skip_bad: bool = False) -> list[Clip]:
    """A `Clip` with five captions for each file; split: train, which is published as development,
    or val, published as validation. Version 1 has none, and its evaluation split is val."""
    parts = {"train": ["development"], "val": ["validation", "evaluation"]}[split]
    names = {part: f"clotho_captions_{part}.csv" for part in parts}
    part = next((part for part in parts if Path(root, names[part]).exists()), parts[0])
    path, columns = Path(root, names[part]), ("file_name", *(f"caption_{i}" for i in range(1, 6)))
    rows, find = read_csv(path, columns), _finder(Path(root, part))

    def clip(row):
        name, *captions = (row[column] for column in columns)
        return [Clip(find(name), _stripped(captions))]
    return _collect(path, part, rows, skip_bad, clip)


def audiocaps(root, split: str = "train", skip_bad: bool = False) -> list[Clip]:
    """A `Clip` with its captions: one in train, up to five, in as many rows, in val and test."""
    path, find = Path(root, f"{split}.csv"), _finder(Path(root, "audio", split))
    if not path.exists():
        path = Path(root, "dataset", f"{split}.csv")
    captions = {}  # (id, start): all of the clip
    for row in read_csv(path, ("youtube_id", "start_time", "caption")):
        captions.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])

    def clip(key):
        names = [name.format(id=key[0], start=key[1]) + suffix
                 for name in AUDIOCAPS_NAMES for suffix in (".wav", ".flac")]
        return [Clip(find(*names), _stripped(captions[key]))]
    return _collect(path, split, list(captions), skip_bad, clip)


def _collect(path, split: str, entries: list, skip_bad: bool, parse: Callable) -> list:
    """The items of all entries, which `parse` makes of one; it raises FAULTS for a bad one."""
    items, bad = [], []
    for number, entry in enumerate(entries, 1):
        try:
            items += parse(entry)
        except FAULTS as error:
            bad.append(f"{split} entry {number}: {type(error).__name__}: {error}")
    if bad and not skip_bad:
        raise InputError(path, f"{bad[0]} ({len(bad)} of {len(entries)} entries are bad)")
    if not items:
        raise InputError(path, f"nothing usable in split {split!r}")
    for line in bad if dist.rank() == 0 else ():
        print("left out:", line)
    return items


def _finder(folder: Path) -> Callable:
    """A function of names → the path of the first that is in the folder, which is listed once."""
    try:
        existing = frozenset(os.listdir(folder))  # so no name leads out of it
    except OSError as error:
        raise InputError(folder, error.strerror) from None

    def find(*names: str) -> Path:
        for name in names:
            if name in existing:
                return folder / name
        raise LookupError(f"no file {names[0]} in {folder}")
    return find


def _stripped(texts) -> tuple[str, ...]:
    texts = tuple(map(str.strip, texts))  # TypeError for what is no string
    if not all(texts):
        raise ValueError("an empty text")
    return texts


def _phrases(find: Callable, images: dict, annotations: dict, ref: dict) -> list[Phrase]:
    """The phrases of a reference. The box is clipped to the image."""
    image = images[ref["image_id"]]
    width, height = float(image["width"]), float(image["height"])
    left, top, w, h = (float(v) for v in annotations[ref["ann_id"]]["bbox"])
    x0, y0, x1, y1 = max(left, 0.), max(top, 0.), min(left + w, width), min(top + h, height)
    if not (x0 < x1 <= width and y0 < y1 <= height):  # False for NaN
        raise ValueError(f"box {left, top, w, h} has no area in {width} x {height}")
    box = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    path, size = find(image["file_name"]), (int(width), int(height))
    phrases = _stripped(sentence["sent"] for sentence in ref["sentences"])
    return [Phrase(path, phrase, box, size) for phrase in phrases]


class _PlainUnpickler(pickle._Unpickler):
    """Lists, dicts, strings and numbers; whatever names a class or a function is refused.
    It is the one in Python, slower by seconds: that in C allocates gigabytes if 5 bytes say so.
    Tuples become lists: as keys of dicts, nested ones take for ever. Byte arrays are refused."""
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items()
                if code not in pickle.BYTEARRAY8 + pickle.FROZENSET}
    dispatch |= {pickle.TUPLE[0]: dispatch[pickle.LIST[0]],
                 pickle.EMPTY_TUPLE[0]: dispatch[pickle.EMPTY_LIST[0]]}
    for n, code in enumerate(pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3, 1):
        dispatch[code] = lambda self, n=n: self.stack.append(
            [self.stack.pop() for _ in range(n)][::-1])

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}")


def _unpickle(path):
    data = io.BytesIO(read_bytes(path, MAX_PICKLE))  # of Python 2: plain strings are bytes
    return _PlainUnpickler(data, encoding="utf-8", errors="replace").load()
