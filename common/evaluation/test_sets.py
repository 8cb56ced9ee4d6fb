"""Test sets of image–audio pairs, made of embedded scenes or read from files, in one form.

A set has `name`; of each sample `ids`, `groups` (samples of one image, or video, share one) and
`labels` (names or None); `has_source`, (N,) bool, whether the image shows what sounds; `num_listed`
(how many samples the annotations list, None for scenes); `is_complete`, (N,) bool, whether all
listed samples of its image are there; `protocol` (of common.metrics) and `align_corners`, how its
heatmaps are resized and cut; `metric_groups`, the metrics that it is for; `prefix` of their names;
and of sample i `image(i)` (H, W, 3) uint8, `waveform(i)` as the model takes it, `gt_map(i)` and
`gt_mask(i)` (SIZE, SIZE) in [0, 1].
"""
from collections import Counter

import numpy as np
import torch

from common import benchmarks, metrics
from common.benchmarks.annotations import find_metadata
from common.benchmarks.pairs import (TEST, cropped_waveform, make_scenes, read_waveform,
                                     read_waveform_around)
from common.io import InputError, read_image
from common.training import progress_bar

PROTOCOL = "sslalign"  # bilinear heatmaps, foreground strictly above a threshold
SIZE = 224  # side of the maps on which predictions and ground truth are compared, as published
SCENES = {"pair": ("pairs", "masks", "retrieval"), "interactive": ("interactive",),
          "extended": ("extended",)}
INTERACTIVE = ("is3", "vpo-ms")  # benchmarks with several sources in each image


class SceneTestSet:
    """Held-out scenes, the same for all seeds. kind: a key of SCENES; objects: 2 or 1 an image."""

    def __init__(self, config, kind: str, protocol: str = PROTOCOL, objects: int = 2):
        self.config, self.name, self.metric_groups = config, f"scenes, {kind}", SCENES[kind]
        self.name += ", one object" * (objects == 1)
        self.num_listed, self.protocol, self.prefix = None, protocol, "one/" * (objects == 1)
        self.align_corners = metrics.PROTOCOLS[protocol].align_corners
        draw, indices = getattr(make_scenes(TEST, config, objects), kind), range(config.held_out)
        self.samples = [draw(i) for i in progress_bar(indices, name=f"drawing {self.name}")]
        self.ids = [f"{kind}-{i:06d}" for i in indices]
        self.groups = [s.group for s in self.samples]
        self.labels = [s.name or None for s in self.samples]
        self.has_source = np.array([s.sounding for s in self.samples])
        self.is_complete = np.ones(len(self.ids), bool)

    def image(self, i):
        return self.samples[i].image

    def waveform(self, i):
        return cropped_waveform(torch.from_numpy(self.samples[i].waveform), self.config)

    def gt_map(self, i):
        return metrics.boxes_to_map(self.samples[i].box[None] * SIZE, SIZE)

    def gt_mask(self, i):
        nearest = np.arange(SIZE) * self.config.image_size // SIZE
        return self.samples[i].mask[np.ix_(nearest, nearest)].astype(np.float32)


class FileTestSet:
    """The samples of a benchmark of common.benchmarks that are on disk. Raises InputError.

    ids: a file with the ids to take, by default the published list. The protocol "sslalign" is that
    of its paper: of VGG-SS the ids in metadata/ours_vggss.txt if that is there (4 655), heatmaps of
    VGG-SS resized with half-pixel centres, others with aligned corners; extended sets (Table IV)
    are scored by SLAVC's protocol."""

    def __init__(self, config, name: str, root: str, ids: str = "", protocol: str = PROTOCOL):
        if name in benchmarks.UNANNOTATED:
            raise InputError(name, "has no boxes: it cannot be evaluated on")
        self.config, self.name, self.prefix = config, name, ""
        if protocol == PROTOCOL and name.endswith("-extended"):
            protocol = "slavc"
        self.protocol, self.align_corners = protocol, metrics.PROTOCOLS[protocol].align_corners
        if protocol == PROTOCOL:
            self.align_corners = not name.startswith("vggss")
        if name == "vggss" and protocol == PROTOCOL:
            ids = ids or find_metadata(root, "ours_vggss.txt", optional=True)
        listed = benchmarks.listed_samples(name, root, ids)
        self.num_listed = len(listed)
        self.samples = benchmarks.load_samples(name, root, ids, listed)
        self.ids = [s.id for s in self.samples]
        self.groups = [s.group for s in self.samples]
        self.labels = [s.label for s in self.samples]
        found, complete = Counter(self.groups), Counter(s.group for s in listed)
        self.is_complete = np.array([found[group] == complete[group] for group in self.groups])
        self.has_source = np.array([s.sounding for s in self.samples])
        if not self.has_source.any():
            raise InputError(root, f"no sample of {name} here shows what sounds")
        # AVSBench's clips are of 5 s.
        self.clip = max(5.0, config.crop) if name.startswith("avsbench") else config.seconds
        has_masks = all(s.masks for s in self.samples if s.sounding)
        is_for = {"pairs": True, "interactive": name in INTERACTIVE,
                  "single-source": name == "vpo-ms", "multi-source": name == "vpo-ms",
                  "extended": not self.has_source.all(), "masks": has_masks,
                  "retrieval": self.has_source.sum() > 1}
        self.metric_groups = tuple(group for group, is_fit in is_for.items() if is_fit)

    def image(self, i):
        return read_image(self.samples[i].image)

    def waveform(self, i):
        sample = self.samples[i]
        if sample.seconds:
            return read_waveform_around(sample.audio, self.config, sample.seconds)
        waveform = read_waveform(sample.audio, self.config, self.clip)
        return cropped_waveform(waveform, self.config, self.clip)

    def gt_map(self, i):
        return benchmarks.gt_map(self.samples[i], SIZE)

    def gt_mask(self, i):
        return benchmarks.gt_map(self.samples[i], SIZE, masks=True)


def test_sets(config, data: str, root: str, ids: str = "", protocol: str = PROTOCOL) -> list:
    """Three sets of scenes if `data` is "scenes", else that benchmark's. Raises InputError."""
    if data == "scenes":
        return [SceneTestSet(config, kind, protocol) for kind in SCENES]
    return [FileTestSet(config, data, root, ids, protocol)]


def shuffled_partners(groups, labels=None) -> np.ndarray:
    """(N,) groups → (N,), for each sample the one whose audio it gets in the control: the one half
    the list away, or the first after that of another group, or itself if there is none. labels: N
    names or None; audio of a label that its group has is passed over too, where others are left.

    >>> shuffled_partners(["a", "a", "b", "b"])
    array([2, 3, 0, 1])
    """
    groups = np.unique(np.asarray(groups), return_inverse=True)[1]
    labels, in_view = labels or [None] * len(groups), {}
    for group, label in zip(groups, labels):
        in_view.setdefault(group, set()).add(label)
    partners, count = np.arange(len(groups)), len(groups)
    for i, group in enumerate(groups):
        others = np.roll(np.arange(count), -(i + count // 2))
        others = others[groups[others] != group]
        hidden = (j for j in others if labels[j] is None or labels[j] not in in_view[group])
        partners[i] = next(hidden, others[0] if len(others) else i)
    return partners
