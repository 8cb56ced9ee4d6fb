"""Heatmaps on disk, of any method, in the place of a model's.

DIR/ID.npy is a heatmap (h, w) of any size, higher where the source is. DIR/ID.npz holds `visual`
and `audio`, two vectors of one length, for retrieval and alignment; it may be missing. IDs are
those of the benchmark's annotations.
"""
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.evaluation import PROTOCOL, SIZE, Batch, Prediction
from common.io import InputError, atomic, inside

MAX_BYTES = 64 * 2**20  # of one file


def write(folder, name: str, heatmap, visual, audio) -> None:
    """The files of one sample: heatmap (h, w), vectors (d,) and (d,), as float32."""
    with atomic(inside(folder, f"{name}.npy")) as file:
        np.save(file, np.asarray(heatmap, np.float32), allow_pickle=False)
    with atomic(inside(folder, f"{name}.npz")) as file:
        np.savez(file, visual=np.asarray(visual, np.float32), audio=np.asarray(audio, np.float32))


def read(path, name: str = "", dimensions: int = 2) -> np.ndarray:
    """The array of an .npy file, or the one called `name` of an .npz file, as float32.

    Raises InputError if it cannot be read, is not finite, or has other dimensions.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(path, f"more than {MAX_BYTES} bytes")
        # Mapped, as a header could otherwise ask for more memory than the file has.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
        if name:
            with array:
                if array.zip.getinfo(f"{name}.npy").file_size > MAX_BYTES:
                    raise InputError(path, f"{name} has more than {MAX_BYTES} bytes")
                array = array[name]
        if array.dtype.kind not in "fiub" or array.ndim != dimensions or not array.size:
            raise InputError(path, f"expected numbers in {dimensions} dimensions, not "
                             f"{array.dtype} {array.shape}")
        with np.errstate(over="ignore"):
            array = np.array(array, np.float32)
    except InputError:
        raise
    except Exception as error:  # foreign bytes fail in many ways
        reason = str(error)[:120]
        raise InputError(path, f"not an array that can be read safely ({reason})") from None
    if not np.isfinite(array).all():
        raise InputError(path, "not finite")
    return array


class SavedMaps:
    """A predictor that reads the heatmaps of a folder."""
    report = {}
    note = "Controls (shuffled or silent audio) cannot be made without the model."

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(folder, "no such folder")

    def path(self, name: str, suffix: str) -> Path:
        return inside(self.folder, f"{name}.{suffix}")

    def encode_test_audio(self, test_set) -> dict:
        """The saved `audio` of all samples (N, d), zeros without a source; {} if one is missing.

        Raises InputError if a heatmap is missing.
        """
        if missing := [name for name in test_set.ids if not self.path(name, "npy").is_file()]:
            raise InputError(self.folder, f"{len(missing)} of {len(test_set.ids)} maps are "
                             f"missing, the first is {missing[0]}.npy")
        paths = [self.path(name, "npz") for name, is_used in zip(test_set.ids, test_set.has_source)
                 if is_used]
        if not all(path.is_file() for path in paths):
            return {}
        length = len(read(paths[0], "visual", 1))
        audio = torch.zeros(len(test_set.ids), length)
        for i, path in zip(np.flatnonzero(test_set.has_source), paths):
            audio[i] = read_vector(path, "audio", length)
        return {"matched": audio}

    def predict(self, batch: Batch) -> Prediction:
        heatmaps = [torch.from_numpy(read(self.path(name, "npy")))[None] for name in batch.ids]
        heatmaps = torch.cat([metrics.resize(x, SIZE, PROTOCOL, batch.align_corners)
                              for x in heatmaps])
        if not batch.audio:
            return Prediction({"": heatmaps}, {})
        audio = batch.audio["matched"]
        visual = torch.zeros_like(audio)
        for k, name in enumerate(batch.ids):
            if (path := self.path(name, "npz")).is_file():
                visual[k] = read_vector(path, "visual", audio.shape[1])
        return Prediction({"": heatmaps}, {"visual": visual, "audio": audio})


def read_vector(path, name: str, length: int) -> torch.Tensor:
    vector = read(path, name, 1)
    if len(vector) != length:
        raise InputError(path, f"{name} has {len(vector)} numbers, others have {length}")
    return torch.from_numpy(vector)


class MapWriter:
    """A predictor that also writes what it predicts to a folder."""

    def __init__(self, predictor, folder):
        self.predictor, self.folder = predictor, folder

    def predict(self, batch: Batch) -> Prediction:
        prediction = self.predictor.predict(batch)
        visual, audio = prediction.features["visual"], prediction.features["audio"]
        for name, *arrays in zip(batch.ids, prediction.heatmaps[""], visual, audio):
            write(self.folder, name, *arrays)
        return prediction
