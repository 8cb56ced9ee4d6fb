"""Files in and out: sound, pictures, overlays, JSON, manifests.

What is read comes from outside and may be anything: it is bounded before memory is taken for it, and whatever is
wrong with it is an `InputError` that names the file. What is written appears whole or not at all (`atomic`).
"""
import csv
import io
import json
import math
import os
import re
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, UnidentifiedImageError

from common.draw import LEGEND, overlay, sheet, to_numpy
from common.resample import fit, resample

__all__ = ["InputError", "append_jsonl", "atomic", "contact_sheet", "fit", "inside", "overlay", "read_audio", "read_image",
           "read_json", "read_jsonl", "read_manifest", "resample", "write_audio", "write_image", "write_json"]

MAX_CHANNELS, MAX_RATE = 64, 768_000
MAX_SECONDS, MAX_FRAMES = 3600, 2**28  # of one read; 2^28 float32 frames are 1 GiB
MAX_PIXELS = 64 * 2**20
MAX_TEXT = 2**28  # bytes of a JSON, JSONL or CSV file


class InputError(Exception):
    """Bad input from outside: which file and why, `path: reason` on one line."""

    def __init__(self, path, reason=None):
        if reason is None:  # DataLoader rebuilds a worker's exception from the text of its traceback, which ends in our line
            path, _, reason = str(path).strip().rpartition("\n")[2].removeprefix(f"{__name__}.InputError: ").partition(": ")
        self.path, self.reason = (" ".join(str(part).split()) for part in (path, reason))
        super().__init__(self.path, self.reason)

    def __str__(self):
        return f"{self.path}: {self.reason}"


@contextmanager
def _decoding(path):
    """Around a decoder of foreign bytes, which may raise nearly anything: refuse what is no file, report the rest."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(path, "not a regular file")
        if info.st_size == 0:
            raise InputError(path, "empty file")
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(path, f"not a picture ({', '.join(_FORMATS)})") from error
    except OSError as error:
        raise InputError(path, error.strerror or error) from error
    except Exception as error:
        raise InputError(path, getattr(error, "error_string", None) or f"{type(error).__name__}: {error}") from error


# ---- sound


def read_audio(path, sample_rate=None, channel="mean", start=0.0, seconds=None):
    """Decode a WAV, FLAC, OGG or AIFF file: (waveform (n,) float32, rate in Hz).

    channel: "mean" of all, or "left", the first. start, seconds: the part to read, in seconds; less comes back
    where the file ends earlier (see `fit`). sample_rate: resample to it; None keeps the file's own.
    Raises InputError for what is not such a file, is cut short, has no sample at `start`, holds samples that are
    not finite, or is larger than the bounds above.
    """
    if channel not in ("mean", "left"):
        raise ValueError(f"channel is 'mean' or 'left', not {channel!r}")
    with _decoding(path), soundfile.SoundFile(os.fspath(path)) as file:
        rate = file.samplerate
        if file.format not in ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF"):
            raise InputError(path, f"{file.format} is not read here: convert it to WAV, FLAC or OGG")
        if not (1 <= file.channels <= MAX_CHANNELS and 1 <= rate <= MAX_RATE):
            raise InputError(path, f"{file.channels} channels at {rate} Hz are out of bounds")
        if _cut_short(path, file):
            raise InputError(path, "truncated: the header declares more sound than there is")
        first = round(start * rate)
        wanted = file.frames - first if seconds is None else min(file.frames - first, round(seconds * rate))
        if first < 0 or wanted < 1:
            raise InputError(path, f"no sound at {start} s: {file.frames} frames at {rate} Hz")
        if wanted > min(MAX_SECONDS * rate, MAX_FRAMES):
            raise InputError(path, f"{wanted} frames at {rate} Hz are too many")
        file.seek(first)
        blocks, missing, share = [], wanted, np.full(file.channels, 1 / file.channels, np.float32)
        while missing and len(block := file.read(min(missing, 2**16), "float32", always_2d=True)):  # (frames, channels)
            blocks.append(block @ share if channel == "mean" else block[:, 0].copy())
            missing -= len(block)
        if missing:
            raise InputError(path, f"truncated: {missing} of {wanted} frames are missing")
    waveform = torch.from_numpy(np.concatenate(blocks))  # (n,)
    if not waveform.isfinite().all():
        raise InputError(path, "samples are not finite")
    if sample_rate is None or sample_rate == rate:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def _cut_short(path, file):
    """Whether the file ends before its header or its stream says; libsndfile then quietly reads what is left."""
    if file.format == "OGG":  # the last page of a stream carries a flag
        with open(path, "rb") as raw:
            raw.seek(max(0, os.path.getsize(path) - 2**17))  # a page has at most 65 307 bytes
            tail = raw.read()
        page = tail[tail.rfind(b"OggS"):]  # 27 bytes, the 6th with the flags and the last the number of lengths, the lengths, …
        return len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27:27 + page[26]])
    sizes = re.search(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)", file.extra_info)
    # A program that writes into a pipe cannot know the length: it declares 2^32 - 1 bytes, which is no lie.
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < 2**32 - 1


def write_audio(path, waveform, rate):
    """Write (n,) or (channels, n) in [-1, 1], clipped, as a 16-bit WAV; reading it gives back multiples of 2^-15."""
    pcm = (to_numpy(waveform).astype(np.float64) * 2**15).round().clip(-(2**15), 2**15 - 1).astype(np.int16)
    with atomic(path) as file:
        soundfile.write(file, np.atleast_2d(pcm).T, rate, format="WAV", subtype="PCM_16")


# ---- pictures

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not all that Pillow knows: EPS starts a program
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation → Image.Transpose


def read_image(path, mode="RGB"):
    """A picture as uint8: (H, W, 3) for "RGB", (H, W, 4) for "RGBA", (H, W) for "L"; the first frame of several.

    EXIF orientation is applied. Where "RGB" or "L" is asked, transparency is laid over white. 16-bit grey is scaled.
    Raises InputError for what is not a picture, is cut short, or has more than MAX_PIXELS.
    """
    if mode not in ("RGB", "RGBA", "L"):
        raise ValueError(f"mode is 'RGB', 'RGBA' or 'L', not {mode!r}")
    with _decoding(path), Image.open(path, formats=_FORMATS) as image:
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


def contact_sheet(rows, path, columns=(), captions=(), legend=LEGEND):
    """Write rows of uint8 pictures, None for an empty place, with headings, captions and a legend (`sheet`), as one PNG."""
    write_image(path, sheet(rows, columns, captions, legend))


# ---- text


def _plain(value):
    """The value as JSON has it: arrays and tensors are lists, paths strings, numbers that are not finite null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path, value):
    """Write `value` as JSON; floats come back exactly, NaN and infinities as null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    with atomic(path) as file:
        file.write(text.encode() + b"\n")


def append_jsonl(file, value):
    """Add `value` as one line to a path, or to a file open for text, in one write."""
    line = json.dumps(_plain(value), allow_nan=False) + "\n"
    if hasattr(file, "write"):
        file.write(line)
        file.flush()
    else:
        with open(file, "ab", buffering=0) as opened:
            opened.write(line.encode())


def read_json(path, max_bytes=MAX_TEXT):
    """The value in a JSON file; InputError where it is not JSON (NaN is not) or longer than `max_bytes`."""
    with _decoding(path):
        return _parse(_read_text(path, max_bytes))


def read_jsonl(path, max_bytes=MAX_TEXT):
    """The values of a file with one JSON value a line, as a list; InputError names the line that is not JSON."""
    values = []
    with _decoding(path):
        for number, line in enumerate(_read_text(path, max_bytes).rstrip("\n").split("\n"), 1):
            try:
                values.append(_parse(line))
            except (ValueError, RecursionError) as error:
                raise InputError(path, f"line {number}: {error}") from error
    return values


def _read_text(path, max_bytes):
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(path, f"more than {max_bytes} bytes")
    return data.decode("utf-8-sig")


def _parse(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")
    return json.loads(text, parse_constant=refuse)


@contextmanager
def atomic(path, mode="wb"):
    """A new file, open under a temporary name beside `path`: takes its place when the block ends, is gone if it raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def inside(root, path):
    """`root`/`path` with `..` and links resolved; InputError where that is not in `root`, or `path` is absolute."""
    try:
        if Path(path).is_absolute():
            raise InputError(path, "an absolute path, where one relative to the data is wanted")
        root = Path(root).resolve()
        found = (root / path).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links
        raise InputError(path, error) from error
    if not found.is_relative_to(root):
        raise InputError(path, f"leaves {root}")
    return found


def read_manifest(path, root, columns, missing="error"):
    """The rows of a CSV file with a header, as dicts; those in `columns` are paths of files, resolved inside `root`.

    A file that does not exist is an InputError, or with `missing="skip"` its row is left out and the result is
    (rows, rows left out). A path that leaves `root`, or a row of another length than the header, is always an error.
    """
    kept, left = [], []
    with _decoding(path):
        reader = csv.DictReader(io.StringIO(_read_text(path, MAX_TEXT), newline=""), strict=True)
        if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise InputError(path, f"no column {', '.join(absent)}")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(path, f"line {reader.line_num}: not {len(reader.fieldnames)} fields")
            files = {name: inside(root, row[name]) for name in columns}
            lost = [row[name] for name in columns if not os.path.isfile(files[name])]
            if lost and missing != "skip":
                raise InputError(path, f"line {reader.line_num}: no file {lost[0]} in {root}")
            (left if lost else kept).append({**row, **files})
    return (kept, left) if missing == "skip" else kept
