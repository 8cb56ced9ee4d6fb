"""Maps on disk, of any method: DIR/ID.npy, (h, w) of any size, higher where the sound comes from; and, for retrieval and
alignment, DIR/ID.npz with `visual` and `audio`, two vectors of one length. IDs are those of the benchmark's annotations.
"""
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.io import InputError, atomic, inside

from common.evaluation.scoring import SIZE

MAX_BYTES = 64 * 2**20  # of one file


def write(folder, key: str, array, visual, audio) -> None:
    """One sample: map (h, w), features (d,) twice, float32."""
    with atomic(inside(folder, f"{key}.npy")) as file:
        np.save(file, np.asarray(array, np.float32), allow_pickle=False)
    with atomic(inside(folder, f"{key}.npz")) as file:
        np.savez(file, visual=np.asarray(visual, np.float32), audio=np.asarray(audio, np.float32))


def read(path, name: str = "", dimensions: int = 2) -> np.ndarray:
    """The array in an .npy file, or the one called `name` in an .npz file → float32. Raises InputError for what is not one, is
    not made of finite numbers, or has other dimensions."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(path, f"more than {MAX_BYTES} bytes")
        array = np.load(path, allow_pickle=False, mmap_mode="r")  # a header cannot ask for more memory than the file has
        if name:
            with array:
                if array.zip.getinfo(f"{name}.npy").file_size > MAX_BYTES:
                    raise InputError(path, f"{name} has more than {MAX_BYTES} bytes")
                array = array[name]
        if array.dtype.kind not in "fiub" or array.ndim != dimensions or not array.size:
            raise InputError(path, f"{dimensions} dimensions of numbers are wanted, not {array.dtype} {array.shape}")
        with np.errstate(over="ignore"):
            array = np.array(array, np.float32)
    except InputError:
        raise
    except Exception as error:  # bytes from outside can fail in any way
        raise InputError(path, f"not an array that can be read safely ({str(error)[:120]})") from None
    if not np.isfinite(array).all():
        raise InputError(path, "not finite")
    return array


class Saved:
    """The maps in a folder, in a model's place."""
    report = {}  # of a training that nobody knows
    note = "Controls (sounds shuffled or silenced) cannot be made without the model."

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(folder, "no such folder")

    def on(self, test):
        """→ a function of rows, as evaluate.Predictor.on. Raises InputError where a map of the set is missing."""
        paths = [inside(self.folder, f"{key}.npy") for key in test.ids]
        if missing := [key for key, path in zip(test.ids, paths) if not path.is_file()]:
            raise InputError(self.folder, f"{len(missing)} of {len(paths)} maps are missing, the first is {missing[0]}.npy")
        vectors = [path.with_name(f"{path.name[:-1]}z") for path in paths]
        known = all(path.is_file() for path, sounds in zip(vectors, test.sounding) if sounds)
        return partial(self._answer, paths, vectors if known else None, test)

    def _answer(self, paths, vectors, test, rows):
        maps = [metrics.resize(torch.from_numpy(read(paths[i]))[None], SIZE, aligned=test.aligned) for i in rows]
        return {"model": torch.cat(maps)}, self._features(vectors, test, rows) if vectors else {}

    def _features(self, vectors, test, rows):
        """visual, audio (n, d); zeros for what does not sound, which retrieval leaves out."""
        length = len(read(vectors[int(test.sounding.argmax())], "visual", 1))
        found = torch.zeros(2, len(rows), length)
        for k, i in enumerate(rows):
            for part, name in zip(found, ("visual", "audio")):
                if test.sounding[i]:
                    vector = read(vectors[i], name, 1)
                    if len(vector) != length:
                        raise InputError(vectors[i], f"{name} has {len(vector)} numbers, others have {length}")
                    part[k] = torch.from_numpy(vector)
        return dict(zip(("visual", "audio"), found))
