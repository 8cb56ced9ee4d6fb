"""Damaged files for every reader: each is read, or is one line that names it.

`make fuzz` gives 10 000 files, or those that ARGS="--files N --seed N" say, to the readers, in a
process of its own with a limit of memory, and stops at a traceback, at a file that takes more than
SECONDS of this processor or MEMORY more than before, and at an error of several lines. `make test`
takes 500 of them.
"""

import argparse
import contextlib
import csv
import io
import json
import pickle
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from common.benchmarks import listed_samples
from common.benchmarks.annotations import read_annotators, read_ids
from common.benchmarks.corpora import refcoco
from common.benchmarks.cvat import read_cvat
from common.benchmarks.is3 import read_mask
from common.evaluation.saved import read as saved_map
from common.io import (
    InputError,
    read_audio,
    read_checkpoint,
    read_csv,
    read_image,
    read_json,
    read_lines,
)
from common.scenes.objects import Directory
from common.training.array_files import open_array

SECONDS, MEMORY = 10, 2**30
WAVE = 0.5 * np.random.default_rng(0).uniform(-1, 1, (4000, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 4), dtype=np.uint8)


def encoded(write, *arguments, **options):
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def image(kind, pixels=PIXELS[..., :3], **options):
    return encoded(Image.fromarray(pixels).save, format=kind, **options)


def saved(content, **options):
    return encoded(lambda file: torch.save(content, file, **options))


def deflated(data):
    """The same archive, with its entries compressed, as torch never writes them."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target.getvalue()


def table(*rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def reference(path):
    """RefCOCO's two files; the one that is damaged is the pickle."""
    folder = path.parent / "refcoco"
    folder.mkdir(exist_ok=True)
    (folder / "refs(unc).p").write_bytes(path.read_bytes())
    (folder / "instances.json").write_text(json.dumps(INSTANCES))
    images = path.parent / "images" / "mscoco" / "images" / "train2014"
    images.mkdir(parents=True, exist_ok=True)
    (images / "1.jpg").touch()
    return refcoco(path.parent, "refcoco", "train")


def cutouts(path):
    """A folder of objects for scenes, whose cut-outs are the damaged file."""
    folder = path.parent / "objects"
    folder.mkdir(exist_ok=True)
    for number, name in enumerate("abcd"):
        (folder / f"{name}.png").write_bytes(path.read_bytes())
        (folder / f"{name}.txt").write_bytes(f"{name}\n".encode() + path.read_bytes())
        soundfile.write(folder / f"{name}.wav", WAVE[number:], 8000)
    return Directory(str(folder))  # Scenes would read each folder once


def vggss(path):
    (path.parent / "vggss.json").write_bytes(path.read_bytes())
    return listed_samples("vggss", path.parent)


def is3(path):
    (path.parent / "IS3_annotation.json").write_bytes(path.read_bytes())
    return listed_samples("is3", path.parent)


INSTANCES = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 10, "height": 12}],
    "annotations": [{"id": 2, "image_id": 1, "bbox": [1, 2, 3, 4]}],
}
STATE = {"weight": torch.randn(4, 3), "list": [1, 2.5, "a"], "none": None}
REFS = [
    {"ref_id": 3, "image_id": 1, "ann_id": 2, "split": "train",
     "sentences": [{"sent": "the left cat", "sent_id": 7, "tokens": ["the", "left", "cat"]}]}
]  # fmt: skip
BOX = b"<a><p><bbox><n>x</n><a>1</a><b>2</b><c>30</c><d>40</d></bbox></p></a>"
CVAT = b"""<annotations><meta><task><size>9</size><created>2020-01-01 00:00:00</created>
<updated>2020-01-02 00:00:00</updated><original_size><width>64</width><height>48</height>
</original_size></task></meta><track id="0" label="cat">
<box frame="0" outside="0" xtl="1.5" ytl="2" xbr="30" ybr="40"/>
<box frame="3" outside="1" xtl="1" ytl="2" xbr="3" ybr="4"/></track></annotations>"""
READERS = {
    "wav": (read_audio, encoded(soundfile.write, WAVE, 16000, format="WAV")),
    "float wav": (read_audio, encoded(soundfile.write, WAVE, 44101, format="WAV", subtype="FLOAT")),
    "flac": (read_audio, encoded(soundfile.write, WAVE, 16000, format="FLAC")),
    "ogg": (read_audio, encoded(soundfile.write, WAVE, 16000, format="OGG")),
    "aiff": (read_audio, encoded(soundfile.write, WAVE, 16000, format="AIFF")),
    "png": (read_image, image("PNG", PIXELS)),
    "palette": (read_image, image("PNG", PIXELS[..., 0])),
    "jpeg": (read_image, image("JPEG")),
    "progressive": (read_image, image("JPEG", progressive=True)),
    "webp": (read_image, image("WEBP", PIXELS)),
    "bmp": (read_image, image("BMP")),
    "gif": (read_image, image("GIF", PIXELS[..., 0])),
    "tiff": (read_image, image("TIFF", compression="tiff_lzw")),
    "ppm": (read_image, image("PPM")),
    "json": (read_json, json.dumps({"a": [1.5, None, "é"], "b": {"c": True}}).encode()),
    "csv": (lambda path: read_csv(path, ["f"]), table(["f", "g"], ["file", "1, 2"], ["f2", 3])),
    "lines": (read_lines, "one\ntwo é\nthree\n".encode()),
    "ids": (read_ids, table(["abc_000010", "a label, of two"], ["def_000020", "x"])),
    "xml": (read_annotators, BOX),
    "cvat": (read_cvat, CVAT),
    "vggss": (vggss, b'[{"file": "a_1", "class": "cat", "bbox": [[0.1, 0.2, 0.3, 0.4]]}]'),
    "is3": (
        is3,
        b'[{"image": "a_b_1_b.jpg", "audio": "a.wav", "bbox": [1, 2, 30, 40], "category": "b"}]',
    ),
    "pickle": (reference, pickle.dumps(REFS, 2)),
    "old pickle": (reference, pickle.dumps(REFS, 0)),
    "checkpoint": (read_checkpoint, saved(STATE)),
    "deflated": (read_checkpoint, deflated(saved({"weight": torch.zeros(10**5)}))),
    "legacy": (read_checkpoint, saved(STATE, _use_new_zipfile_serialization=False)),
    "npy": (open_array, encoded(np.save, np.zeros((5, 4), np.float32))),
    "map": (saved_map, encoded(np.save, np.zeros((5, 4), np.float16))),
    "mask": (read_mask, image("PNG", PIXELS[..., 0])),
    "object": (cutouts, image("PNG", np.full((9, 9, 4), 200, np.uint8))),
}


def mutated(data, rng):
    """Bytes changed, runs removed, repeated or set, large numbers, ends cut off; most near the
    head."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, run = int(len(data) * rng.random() ** rng.choice([1, 3])), rng.randint(1, 8)
        kind = rng.randrange(-3, 7)
        if kind < 2:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 2:
            data[at : at + run] = rng.choice([b"\0", b"\xff", b"\x7f"]) * run
        elif kind == 3:
            del data[at : at + run]
        elif kind == 4:
            data[at:at] = data[at : at + run] * rng.choice([1, 1, 1, 1000])
        elif kind == 5:
            data[at : at + 2] = rng.choice([b"[", b'"', b"9" * 5000, b"(", b"\x96", b"2\x85"])
        else:
            del data[len(data) - at :]
    return bytes(data)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(name, path):
    """Give the file to its reader → "read" or "refused". Raises AssertionError for all else."""
    start, memory = time.process_time(), peak()
    try:
        with contextlib.redirect_stdout(None):
            READERS[name][0](path)
        outcome = "read"
    except InputError as error:
        assert str(error).count("\n") == 0
        outcome = "refused"
    except Exception:
        raise AssertionError(f"{name}: {traceback.format_exc()}") from None
    seconds, more = time.process_time() - start, peak() - memory
    assert seconds < SECONDS and more < MEMORY, f"{name}: {seconds:.1f} s, {more >> 20} MB"
    return outcome


def fuzz(files, seed, keep="fuzz-failure"):
    """Give `files` damaged files to the readers in turn → {reader: Counter of outcomes}."""
    outcomes = {name: Counter() for name in READERS}
    names = list(READERS)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "file"
        for name, (_, data) in READERS.items():
            path.write_bytes(data)
            assert check(name, path) == ("refused" if name == "deflated" else "read"), name
        for number in range(files):
            name = names[number % len(names)]
            data = mutated(READERS[name][1], random.Random(f"{seed} {number}"))
            path.write_bytes(data)
            try:
                outcomes[name][check(name, path)] += 1
            except AssertionError:
                Path(keep).write_bytes(data)
                raise
    return outcomes


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", type=int, default=10_000, help="number of files [10000]")
    parser.add_argument("--seed", type=int, default=0, help="of the damages [0]")
    args, start = parser.parse_args(argv), time.monotonic()
    torch.set_num_threads(1)
    for name, outcomes in fuzz(args.files, args.seed).items():
        print(f"{name:12} {outcomes['read']:5} read {outcomes['refused']:5} refused")
    seconds = time.monotonic() - start
    print(f"{args.files} files, {seconds:.0f} s, at most {peak() >> 20} MB in all")


if __name__ == "__main__":
    sys.exit(main())
