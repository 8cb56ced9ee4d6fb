"""Heatmaps on disk, of any method, in the place of a model's: `--maps` and `--save-maps`.

DIR/ID.npy is a heatmap (h, w) of any size, higher where the source is. DIR/ID.npz holds vectors for
retrieval and alignment, `visual` and `audio` of one length, and perhaps `visual_projected` and
`audio_projected`; it may be missing. IDs are those of the benchmark's annotations.
"""
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.io import InputError, atomic, decoding, inside

from .scoring import Batch, Prediction
from .test_sets import SIZE

MAX_BYTES = 64 * 2**20  # of one file
FEATURES = ("visual", "audio", "visual_projected", "audio_projected")


def add_map_flags(parser) -> None:
    for name, text in (
            ("save-maps", "folder to write heatmaps and features to"),
            ("maps", "folder of heatmaps to evaluate instead of a model's (common/evaluation/"
             "saved.py); scenes are those of --checkpoint or, without, of the preset tiny")):
        parser.add_argument(f"--{name}", default="", help=text)


def read(path, name: str = "", dimensions: int = 2) -> np.ndarray:
    """The array of an .npy file, or the one called `name` of an .npz file, as float32.

    Raises InputError if it cannot be read, is not finite, or has other dimensions."""
    with decoding(path), np.errstate(over="ignore"):
        if path.stat().st_size > MAX_BYTES:
            raise InputError(path, f"more than {MAX_BYTES} bytes")
        if name:
            with np.load(path, allow_pickle=False) as arrays:
                if arrays.zip.getinfo(f"{name}.npy").file_size > MAX_BYTES:
                    raise InputError(path, f"{name} has more than {MAX_BYTES} bytes")
                array = arrays[name]
        else:  # mapped, as a header could otherwise ask for more memory than the file has
            array = np.lib.format.open_memmap(path, "r")
        if array.dtype.kind not in "fiub" or array.ndim != dimensions or not array.size:
            raise InputError(path, f"expected numbers in {dimensions} dimensions, not "
                             f"{array.dtype} {array.shape}")
        array = np.array(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(path, "not finite")
    return array


class SavedMaps:
    """A predictor that reads the heatmaps and vectors of a folder."""
    report = {}
    note = "Controls (shuffled, silent audio, noise) cannot be made without the model."

    def __init__(self, folder):
        self.folder, self.lengths = Path(folder), {}  # name → length of the vectors
        if not self.folder.is_dir():
            raise InputError(folder, "no such folder")

    def path(self, name: str, suffix: str) -> Path:
        return inside(self.folder, f"{name}.{suffix}")

    def encode_test_audio(self, test_set) -> dict:
        """{}, as there is no audio to encode. Vectors are read if all samples with a source have
        them. Raises InputError if a heatmap is missing."""
        if missing := [name for name in test_set.ids if not self.path(name, "npy").is_file()]:
            raise InputError(self.folder, f"{len(missing)} of {len(test_set.ids)} maps are "
                             f"missing, the first is {missing[0]}.npy")
        paths = [self.path(name, "npz") for name, is_used in zip(test_set.ids, test_set.has_source)
                 if is_used]
        self.lengths = {}
        if all(path.is_file() for path in paths):
            self.lengths = dict.fromkeys(FEATURES[:2], len(read(paths[0], "visual", 1)))
            with np.load(paths[0], allow_pickle=False) as arrays:
                if set(FEATURES) <= set(arrays):
                    projected = len(read(paths[0], "visual_projected", 1))
                    self.lengths |= dict.fromkeys(FEATURES[2:], projected)
        return {}

    def vector(self, sample: str, name: str) -> torch.Tensor:
        """(d,), zeros of a sample that has no file."""
        if not (path := self.path(sample, "npz")).is_file():
            return torch.zeros(self.lengths[name])
        vector = read(path, name, 1)
        if len(vector) != self.lengths[name]:
            raise InputError(path, f"{name} has {len(vector)} numbers, others have "
                             f"{self.lengths[name]}")
        return torch.from_numpy(vector)

    def predict(self, batch: Batch) -> Prediction:
        heatmaps = [torch.from_numpy(read(self.path(name, "npy")))[None] for name in batch.ids]
        heatmaps = torch.cat([metrics.resize(x, SIZE, batch.protocol, batch.align_corners)
                              for x in heatmaps])
        return Prediction({"": heatmaps}, {name: torch.stack([self.vector(x, name)
                                                              for x in batch.ids])
                                           for name in self.lengths})


class MapWriter:
    """A predictor that also writes the first of its heatmaps, and its features, to a folder."""

    def __init__(self, predictor, folder):
        self.predictor, self.folder = predictor, folder

    def predict(self, batch: Batch) -> Prediction:
        prediction = self.predictor.predict(batch)
        heatmaps = next(iter(prediction.heatmaps.values()))
        for k, name in enumerate(batch.ids):
            with atomic(inside(self.folder, f"{name}.npy")) as file:
                np.save(file, np.asarray(heatmaps[k], np.float32), allow_pickle=False)
            if prediction.features:
                with atomic(inside(self.folder, f"{name}.npz")) as file:
                    np.savez(file, **{key: np.asarray(x[k], np.float32)
                                      for key, x in prediction.features.items()})
        return prediction
