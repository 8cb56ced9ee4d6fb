"""A sample of a benchmark, its ground truth, which samples can be read, which are held out."""
import zlib
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.io import InputError
from common.metrics import boxes_to_map
from common.training import dist, progress_bar

from .is3 import read_mask


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, audio, and where in the image its source is annotated.
    boxes: (n, 4) float64, x0, y0, x1, y1 in [0, 1], none without area. Flickr-SoundNet: those of
    all annotators, not clipped. None without annotation."""
    id: str
    image: Path  # ave: the folder of the video's frames
    audio: Path
    boxes: np.ndarray | None
    masks: tuple | None = None  # paths
    group: str = ""  # samples of one image (IS3, VPO) or of one video share it
    label: str | None = None
    sounding: bool = True
    seconds: tuple | None = None  # start and end of its part of the audio; None: all of it
    consensus: int | None = None  # of boxes, see `boxes_to_map`; two annotators of Flickr-SoundNet

    def lacks_box(self) -> bool:
        """Whether boxes are annotated, of which none has an area inside the image."""
        return self.sounding and self.boxes is not None and not len(self.boxes)


def gt_map(sample: Sample, size: int, masks=False) -> np.ndarray:
    """(size, size) float32 ground truth in [0, 1]: the union of the boxes (or their consensus), or
    of the masks; zeros if nothing sounds. Raises ValueError without any."""
    if not sample.sounding:
        return np.zeros((size, size), np.float32)
    if (sample.masks if masks else sample.boxes) is None:
        raise ValueError(f"{sample.id} has no {'mask' if masks else 'boxes'}")
    if masks:
        return np.any([read_mask(path, size) for path in sample.masks], 0).astype(np.float32)
    return boxes_to_map(sample.boxes * size, size, consensus=sample.consensus)


def readable_samples(samples, field: str, read) -> list:
    """The samples whose file in `field` can be read; prints the others (--skip-bad)."""
    def check(path):
        read(path)  # and forget what was read

    paths = {getattr(sample, field) for sample in samples}
    bad = attempt_all(check, paths, f"{field} files", "left out: ")[1]
    return [sample for sample in samples if getattr(sample, field) not in bad]


def attempt_all(function, paths, name: str, prefix="", file=None, jobs: int | None = None):
    """Call function(path) in threads → results, paths for which it raised InputError.
    The errors are written to `file` (stdout), behind `prefix`."""
    def attempt(path):
        try:
            return path, function(path), None
        except InputError as error:
            return path, None, error

    results, bad = [], set()
    with ThreadPool(jobs) as pool:
        attempts = pool.imap(attempt, sorted(paths))
        for path, result, error in progress_bar(attempts, len(paths), name):
            if error is None:
                results.append(result)
                continue
            bad.add(path)
            if dist.rank() == 0:
                tqdm.write(f"{prefix}{error}", file)
    return results, bad


def hold_out(samples, count: int, what: str) -> tuple:
    """→ the samples to train on, `count` for validation: those whose ids have the smallest
    checksums, whatever the seed. what: what they are, in the plural. Raises InputError."""
    if len(samples) <= count:
        raise InputError("--held-out", f"{count} of {len(samples)} {what} leave none to train on")
    checksums = np.array([zlib.crc32(sample.id.encode()) for sample in samples])
    is_held_out = checksums < np.sort(checksums)[count]
    return tuple([sample for sample, is_held in zip(samples, is_held_out) if is_held == part]
                 for part in (False, True))
