"""Readers of TURN's training sets, as published: RefCOCO, RefCOCO+ and RefCOCOg (source), Clotho and AudioCaps (intermediate).

    ROOT/refcoco/refs(unc).p, instances.json              ROOT/clotho_captions_development.csv   ROOT/train.csv
    ROOT/refcoco+/…   ROOT/refcocog/…                     ROOT/development/NAME.wav              ROOT/audio/train/ID_START.wav
    ROOT/images/mscoco/images/train2014/COCO_train2014_….jpg

A reader reads the lists and sees that the files exist; it opens no picture and no sound.
"""
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.io import InputError, inside, read_csv, read_json

LARGEST_PICKLE = 1 << 28  # bytes; the published ones have less than 2^26
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "google"}  # google: what TURN's released code takes
COCO = "images/mscoco/images/train2014"
CLOTHO = ("development", "validation", "evaluation")
AUDIOCAPS = ("train", "val", "test")
AUDIOCAPS_NAMES = "{id}_{start}", "{id}", "Y{id}_{start}", "Y{id}"  # the downloaders in use name a clip in these ways


class Phrase(NamedTuple):
    """A phrase and the box of what it refers to: centre x, centre y, width, height, each in [0, 1] of the picture."""
    image: Path
    phrase: str
    box: tuple[float, float, float, float]
    id: str


class Clip(NamedTuple):
    """A sound and all captions of it."""
    audio: Path
    captions: tuple[str, ...]
    id: str


class Corpus(list):
    """The items; `bad` says, one line each, what was left out with `skip_bad`."""

    def __init__(self):
        super().__init__()
        self.bad: list[str] = []


def refcoco(root, name: str = "refcocog", split: str = "train", split_by: str | None = None,
            skip_bad: bool = False) -> Corpus:
    """One `Phrase` per sentence. `name`: refcoco, refcoco+ or refcocog; `split_by` None: unc, unc, google.

    `split` is train, val, and test (refcocog by umd) or testA, testB (unc). Pictures are COCO's train2014 in the places where the
    annotators' own tool has them. Raises InputError.
    """
    if name not in SPLIT_BY:
        raise ValueError(f"name {name!r} is none of {', '.join(SPLIT_BY)}")
    split_by = split_by or SPLIT_BY[name]
    path = inside(root, f"{name}/refs({split_by}).p")
    refs = _unpickle(path)
    instances = inside(root, f"{name}/instances.json")
    coco = read_json(instances)
    images = _by_id(instances, coco, "images")
    boxes = _by_id(instances, coco, "annotations")
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise InputError(path, "not a list of references")
    refs = [ref for ref in refs if ref.get("split") == split]
    files = _listing(inside(root, COCO))
    return _collect(path, split, refs, lambda ref: _phrases(files, images, boxes, ref), skip_bad)


def clotho(root, split: str = "development", skip_bad: bool = False) -> Corpus:
    """One `Clip` with five captions per file. `split`: development, validation or evaluation. Raises InputError."""
    if split not in CLOTHO:
        raise ValueError(f"split {split!r} is none of {', '.join(CLOTHO)}")
    path = inside(root, f"clotho_captions_{split}.csv")
    files = _listing(inside(root, split))
    columns = "file_name", *(f"caption_{i}" for i in range(1, 6))

    def clip(row):
        name, *captions = (row[column] for column in columns)
        return [Clip(_file(files, name), _texts(captions), name)]
    return _collect(path, split, read_csv(path, columns), clip, skip_bad)


def audiocaps(root, split: str = "train", skip_bad: bool = False) -> Corpus:
    """One `Clip` per clip, with one caption in train and up to five, over as many rows, in val and test. Raises InputError.

    The list is ROOT/train.csv, or ROOT/dataset/train.csv as in the published repository. The sounds are in ROOT/audio/train/,
    named ID_START, ID, YID_START or YID, .wav or .flac, where ID is YouTube's and START the second as the list has it.
    """
    if split not in AUDIOCAPS:
        raise ValueError(f"split {split!r} is none of {', '.join(AUDIOCAPS)}")
    path = inside(root, f"{split}.csv")
    if not path.exists():
        path = inside(root, f"dataset/{split}.csv")
    files = _listing(inside(root, f"audio/{split}"))
    clips = {}
    for row in read_csv(path, ("youtube_id", "start_time", "caption")):
        clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])

    def clip(item):
        (youtube, start), captions = item
        names = [form.format(id=youtube, start=start) + end for form in AUDIOCAPS_NAMES for end in (".wav", ".flac")]
        return [Clip(_file(files, *names), _texts(captions), f"{youtube}_{start}")]
    return _collect(path, split, list(clips.items()), clip, skip_bad)


class _Bad(Exception):
    """What is wrong with one row."""


def _collect(path, split: str, rows: list, items: Callable, skip_bad: bool) -> Corpus:
    """The items of all rows; the bad ones are listed, or make an error that names the first and how many there are."""
    corpus = Corpus()
    for number, row in enumerate(rows, 1):
        try:
            corpus += items(row)
        except _Bad as reason:
            corpus.bad.append(f"{split} entry {number}: {reason}")
    if corpus.bad and not skip_bad:
        raise InputError(path, f"{corpus.bad[0]} ({len(corpus.bad)} of {len(rows)} entries are bad)")
    if not corpus:
        raise InputError(path, f"nothing usable in split {split!r}")
    return corpus


def _listing(folder: Path) -> tuple[Path, frozenset[str]]:
    """A folder and the names of what is in it: one system call instead of one per item, and no name can lead out of it."""
    try:
        return folder, frozenset(os.listdir(folder))
    except OSError as error:
        raise InputError(folder, error.strerror) from None


def _file(files, *names: str) -> Path:
    folder, found = files
    for name in names:
        if name in found:
            return inside(folder, name)
    raise _Bad(f"no file {names[0]} in {folder}")


def _texts(captions) -> tuple[str, ...]:
    captions = tuple(caption.strip() for caption in captions)
    if not all(captions):
        raise _Bad("an empty caption")
    return captions


def _phrases(files, images: dict, annotations: dict, ref: dict) -> list[Phrase]:
    try:
        image = images[ref["image_id"]]
        width, height = float(image["width"]), float(image["height"])
        left, top, w, h = (float(v) for v in annotations[ref["ann_id"]]["bbox"])
        sentences = [(str(s["sent"]).strip(), str(s["sent_id"])) for s in ref["sentences"]]
        path = _file(files, str(image["file_name"]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _Bad(f"ref_id {ref.get('ref_id')}: {type(error).__name__}: {error}") from None
    # clipped to the picture; written so that NaN fails
    x0, y0, x1, y1 = max(left, 0.), max(top, 0.), min(left + w, width), min(top + h, height)
    if not (x0 < x1 <= width and y0 < y1 <= height):
        raise _Bad(f"ref_id {ref.get('ref_id')}: box {left, top, w, h} has no area in {width} x {height}")
    if not all(phrase for phrase, _ in sentences):
        raise _Bad(f"ref_id {ref.get('ref_id')}: an empty phrase")
    box = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    return [Phrase(path, phrase, box, sent_id) for phrase, sent_id in sentences]


def _by_id(path, coco, name: str) -> dict:
    try:
        return {entry["id"]: entry for entry in coco[name]}
    except (LookupError, TypeError) as error:
        raise InputError(path, f"{name}: not in COCO's layout ({error})") from None


class _Plain(pickle._Unpickler):
    """Lists, dicts, strings and numbers only: whatever names a class or a function is refused before it is looked up.

    This is the standard library's unpickler in Python, a few seconds slower on RefCOCO than the one in C, which takes
    gigabytes of memory when five bytes tell it to.
    """

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}")


def _unpickle(path):
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_PICKLE + 1)
        if len(data) > LARGEST_PICKLE:
            raise InputError(path, "too large")
        # written by Python 2, whose plain strings are bytes
        return _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except InputError:
        raise
    except OSError as error:
        raise InputError(path, error.strerror) from None
    except Exception as error:  # on bytes that are not a pickle, the unpickler raises nearly anything
        raise InputError(path, f"not a plain pickle ({type(error).__name__}: {error})") from None
