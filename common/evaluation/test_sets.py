"""Test sets, of scenes and of files, in one form.

A set has `name`, `ids`, `groups` (samples of one picture, or one video, share it), `labels` (None where nobody gave one),
`sounding` (n,) bool, `listed` (how many the annotations name, None for scenes), `aligned` (how its maps are resized) and `feeds`,
the groups of metrics that it is for; `image(i)` → (H, W, 3) uint8, `sound(i)` → the waveform that is heard, `truth(i)` and
`mask(i)` → (SIZE, SIZE) in [0, 1].
"""
import numpy as np
import torch

from common import benchmarks, metrics
from common.io import InputError, read_image
from common.training import progress_bar

from common.benchmarks.pairs import TEST, cropped_waveform, read_waveform_around, read_waveform, make_scenes
from .scoring import SIZE

CROSS_MODAL = ("retrieval", "alignment")
SCENES = {"pair": ("pairs", "masks", *CROSS_MODAL), "interactive": ("interactive",), "extended": ("extended",)}
INTERACTIVE = ("is3", "vpo-ms")  # several sounds of each picture


class SceneSet:
    """Held-out scenes, the same for every seed of training. kind: one of SCENES, a method of common.scenes.Scenes."""

    def __init__(self, config, kind: str):
        self.config, self.name, self.feeds, self.listed, self.aligned = config, f"scenes, {kind}", SCENES[kind], None, False
        draw = getattr(make_scenes(TEST, config), kind)
        self.samples = [draw(i) for i in progress_bar(range(config.held_out), name=f"drawing {self.name}")]
        self.ids = [f"{kind}-{i:06d}" for i in range(len(self.samples))]
        self.groups = [s.group for s in self.samples]
        self.labels = [s.name or None for s in self.samples]
        self.sounding = np.array([s.sounding for s in self.samples])

    def image(self, i):
        return self.samples[i].image

    def waveform(self, i):
        return cropped_waveform(torch.from_numpy(self.samples[i].waveform), self.config)

    def truth(self, i):
        return metrics.boxes_to_map(self.samples[i].box[None] * SIZE, SIZE)

    def mask(self, i):
        pixel = np.arange(SIZE) * self.config.image_size // SIZE  # the nearest
        return self.samples[i].mask[np.ix_(pixel, pixel)].astype(np.float32)


class FileSet:
    """What is on disk of a benchmark of common.benchmarks. Raises InputError."""

    def __init__(self, config, name: str, root: str):
        if name in benchmarks.UNANNOTATED:
            raise InputError("--data", f"nobody drew boxes for {name}: it cannot be evaluated on")
        self.config, self.name, self.listed = config, name, len(benchmarks.listed_samples(name, root))
        self.aligned = not name.startswith("vggss")  # how the released evaluation resizes maps
        self.samples = benchmarks.load_samples(name, root)
        self.ids, self.groups, self.labels = ([getattr(s, field) for s in self.samples] for field in ("id", "group", "label"))
        self.sounding = np.array([s.sounding for s in self.samples])
        if not self.sounding.any():
            raise InputError(root, f"nothing that sounds of {name} is here")
        self.clip = max(5.0, config.crop) if name.startswith("avsbench") else config.seconds  # AVSBench's sounds are of 5 s
        feeds = {"pairs": True, "interactive": name in INTERACTIVE, "extended": not self.sounding.all(),
                 "masks": all(s.masks for s in self.samples if s.sounding), **dict.fromkeys(CROSS_MODAL, self.sounding.sum() > 1)}
        self.feeds = tuple(group for group, fed in feeds.items() if fed)

    def image(self, i):
        return read_image(self.samples[i].image)

    def waveform(self, i):
        sample = self.samples[i]
        if sample.seconds:
            return read_waveform_around(sample.audio, self.config, sample.seconds)
        return cropped_waveform(read_waveform(sample.audio, self.config, self.clip), self.config, self.clip)

    def truth(self, i):
        return benchmarks.gt_map(self.samples[i], SIZE)

    def mask(self, i):
        return benchmarks.gt_map(self.samples[i], SIZE, masks=True)


def sets_of(config, data: str, root: str) -> list:
    """The sets of `scenes`, or the one of a benchmark. Raises InputError."""
    return [SceneSet(config, kind) for kind in SCENES] if data == "scenes" else [FileSet(config, data, root)]


def others(groups) -> np.ndarray:
    """(n,) → for each sample the one half the list away (neighbours in a list may be of one video), or the first after that
    of another group; itself if there is none."""
    groups = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = len(groups)
    found = (np.arange(count) + count // 2) % count
    for _ in range(count):
        same = groups[found] == groups
        if not same.any():
            return found
        found[same] = (found[same] + 1) % count
    return found
