"""Features of pre-trained encoders, in which neighbours are looked for (3.3), in files that grow by blocks and survive a kill.

The supervised encoders of the paper are ResNet-18s: one of ImageNet for pictures, one of VGGSound for sounds (Chen et al.,
"VGGSound", ICASSP 2020: ten seconds as a spectrogram of 257 × 1004, standardised). A feature is the mean of the last map.
"""
import io
import math
import os
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.io import InputError, atomic, read_audio, read_image, read_json, write_json
from common.run import progress
from common.weights import load_published

from .augment import normalise, test_view
from .frontend import excerpt, log_spectrogram
from .resnet import resnet18

SIZE = 224  # of the picture
RATE, SECONDS = 16000, 10.0  # of the sound
CLASSES = {"image": 1000, "audio": 309}  # ImageNet, VGGSound


class Inputs(Dataset):
    """What the encoder of `modality`, "image" or "audio", takes of samples: (3, 224, 224) or (1, 257, 1004)."""

    def __init__(self, samples, modality: str):
        self.samples, self.modality = samples, modality

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        if self.modality == "image":
            return test_view(read_image(self.samples[i].image), SIZE)
        waveform, _ = read_audio(self.samples[i].audio, RATE, seconds=SECONDS)
        return standardised(excerpt(waveform, RATE, clip=SECONDS, crop=SECONDS))


def standardised(waveform: torch.Tensor) -> torch.Tensor:
    """(160 000,) samples → (1, 257, 1004): log(x + 1e-7) with mean 0 and deviation 1, as VGGSound's classifier was trained."""
    x = 12 * log_spectrogram(waveform, RATE, window=512, hop=159).double()  # ours is divided by 12
    x = (x - x.mean()) / (x.std(correction=0) + 1e-9)  # in float64, or silence would be what is rounded off
    return x.float().reshape(1, *x.shape[-2:])


def encoder(modality: str, weights, key=None, prefix="", device="cpu"):
    """ResNet-18 with the published weights in a file, in evaluation mode. Raises InputError."""
    net = resnet18(CLASSES[modality], 3 if modality == "image" else 1)
    return load_published(net, weights, key or None, prefix).eval().to(device)


def extract(samples, modality: str, net, path, made_of: dict, device="cpu", batch_size=64, workers=0) -> np.memmap:
    """Features (N, 512) float16 of all samples (with `image` and `audio`, paths), in their order, in the file `path`.

    made_of: as in `fill`. Raises InputError for a picture or sound that cannot be read.
    """
    @torch.inference_mode()
    def blocks(first):
        loader = DataLoader(Inputs(samples[first:], modality), batch_size, num_workers=workers)
        for x in loader:  # (B, channels, H, W)
            x = x.to(device)
            maps = net.features(normalise(x) if modality == "image" else x)  # (B, 512, H/32, W/32)
            yield maps.mean((2, 3)).half().cpu().numpy()

    return fill(path, (len(samples), net.channels), np.float16, made_of, blocks, f"{modality} features")


def write_ids(path, ids) -> None:
    """One id a line. InputError where the file is there and holds others: its folder belongs to other samples."""
    text = "".join(f"{key}\n" for key in ids).encode()
    if not path.is_file():
        with atomic(path) as file:
            file.write(text)
    elif path.read_bytes() != text:
        raise InputError(path, "is of other samples than these: take another folder, or empty this one")


def crc32(path) -> int:
    """Of a file. Raises InputError."""
    try:
        with open(path, "rb") as file:
            crc = 0
            for block in iter(partial(file.read, 2**22), b""):
                crc = zlib.crc32(block, crc)
            return crc
    except OSError as error:
        raise InputError(path, error.strerror) from error


def fill(path, shape: tuple, dtype, made_of: dict, blocks, name="") -> np.memmap:
    """A file `path`, .npy, with an array of this shape and dtype that `blocks(row)` gives from `row` on, a few rows at a time.

    It grows as `path`.part, while `path`.json holds `made_of` (plain data that tells one array from another) and the number of
    rows that are safe on disk. So a second call goes on where the first was killed, returns at once if it was not, and begins
    again if it is made of something else. Returns the array, memory-mapped.
    Raises InputError where `path` is there without its .json: somebody else's file is not overwritten.
    """
    path = Path(path)
    part, record = (path.with_name(path.name + suffix) for suffix in (".part", ".json"))
    state = {**made_of, "shape": list(shape), "dtype": np.dtype(dtype).str}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": state["dtype"], "fortran_order": False, "shape": tuple(shape)})
    header, row = header.getvalue(), np.dtype(dtype).itemsize * math.prod(shape[1:])
    if path.exists() and not record.exists():
        raise InputError(path, "is there already, and was not made by this command: remove it, or take another folder")
    rows = _rows(record, state)
    if rows == shape[0] and path.is_file() and not part.exists():
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if not (part.is_file() and part.stat().st_size >= len(header) + rows * row):
        rows = 0
    if not rows:
        for old in (record, part, path):  # in this order: what is recorded is there, at any time
            old.unlink(missing_ok=True)
        part.write_bytes(header)
    with open(part, "r+b") as file, progress(total=shape[0], initial=rows, name=name) as bar:
        file.truncate(len(header) + rows * row)
        file.seek(0, os.SEEK_END)
        for block in blocks(rows):
            file.write(np.ascontiguousarray(block, dtype))  # not through a mapping, whose pages would count as ours
            file.flush()
            os.fsync(file.fileno())
            rows += len(block)
            write_json(record, {**state, "rows": rows})
            bar.update(len(block))
    os.replace(part, path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _rows(record, state) -> int:
    """How many rows are recorded of this very array."""
    saved = read_json(record) if record.is_file() else None
    if not isinstance(saved, dict) or type(saved.get("rows")) is not int or saved != {**state, "rows": saved["rows"]}:
        return 0
    return saved["rows"]
