"""What sslalign learns from: pairs of a picture and a sound, and their positives (section 3.3).

A source of pairs has `ids`, `image(i)` → (H, W, 3) uint8 and `sound(i)` → (n,) at config.sample_rate; no label is ever read.
`Steps` is all that the training loop sees.
"""
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common import benchmarks, dist
from common.io import InputError, read_audio, read_image
from common.run import progress
from common.scenes import Scenes

from .augment import colours, crop_view, draw_colours, train_view
from .frontend import excerpt

# Seeds of the held-out scenes; training uses --seed, which is smaller.
VALIDATION, TEST = 10**6, 10**6 + 3


def scenes_of(seed: int, config, objects: int = 2) -> Scenes:
    return Scenes(seed, config.image_size, config.sample_rate, config.seconds, objects, config.objects or None)


def read_sound(path, config, clip=None):
    """A sound file → waveform at config.sample_rate, not longer than `clip` seconds (default: config.seconds)."""
    return read_audio(path, config.sample_rate, config.channel, seconds=clip or config.seconds)[0]


def read_around(path, config, span):
    """What the model hears of one frame of a long video: config.crop seconds around the middle of `span`, (start, end) in
    seconds; at an end of the file the first or last ones."""
    waveform = read_audio(path, config.sample_rate, config.channel, max(0.0, (sum(span) - config.crop) / 2), config.crop)[0]
    missing = config.crop - len(waveform) / config.sample_rate
    if missing > 0:
        start = max(0.0, (sum(span) - config.crop) / 2 - missing)
        waveform = read_audio(path, config.sample_rate, config.channel, start, config.crop)[0]
    return heard(waveform, config, config.crop)


def heard(waveform, config, clip=None, shift: float = 0.0):
    """The part of a sound that the model hears: config.crop seconds around the middle of the clip, or `shift` seconds later."""
    return excerpt(waveform, config.sample_rate, clip or config.seconds, config.crop, shift)


class ScenePairs:
    """Pairs made of embedded scenes, drawn once and kept in memory; a share `lone` of them without a silent second object."""

    def __init__(self, seed: int, count: int, config, lone: float = 0.0):
        scenes = scenes_of(seed, config, 2), scenes_of(seed, config, 1)
        alone = np.random.default_rng([seed, 23]).random(count) < lone
        self.samples = [scenes[int(alone[i])].pair(i) for i in progress(range(count), name="drawing scenes")]
        bank = zlib.crc32("\n".join(scenes[0].names).encode())  # other objects, other pairs
        self.ids = [f"{bank:08x}-{seed}-{i}" for i in range(count)]

    def image(self, i):
        return self.samples[i].image

    def sound(self, i):
        return torch.from_numpy(self.samples[i].waveform)


class FilePairs:
    """Pairs of files: samples of common.benchmarks."""

    def __init__(self, samples, config):
        self.samples, self.config, self.ids = samples, config, [s.id for s in samples]

    def image(self, i):
        return read_image(self.samples[i].image)

    def sound(self, i):
        return read_sound(self.samples[i].audio, self.config)


def pairs(config):
    """→ pairs to learn from, pairs held out for validation. Raises InputError.

    Of files, those with the smallest checksums of their ids are held out: the same for every seed.
    """
    if config.data == "scenes":
        if config.seed >= VALIDATION:
            raise InputError("--seed", f"{config.seed} is a held-out seed; take one below {VALIDATION}")
        return ScenePairs(config.seed, config.scenes, config, config.lone), ScenePairs(VALIDATION, config.held_out, config)
    if config.data not in ("vggsound", "flickr-soundnet"):
        raise InputError("--data", f"{config.data!r} is none of scenes, vggsound, flickr-soundnet")
    if not config.root or not Path(config.root).is_dir():
        raise InputError(config.root or "--root", f"not a folder; --root names the one that holds {config.data}")
    samples = benchmarks.load(config.data, config.root, config.ids or None)
    if config.skip_bad:
        samples = benchmarks.readable(samples, "image", read_image)
        samples = benchmarks.readable(samples, "audio", lambda path: read_sound(path, config))
    if len(samples) <= config.held_out:
        raise InputError("--held-out", f"{config.held_out} of {len(samples)} pairs leave nothing to learn from")
    last = sorted(zlib.crc32(s.id.encode()) for s in samples)[config.held_out]
    return (FilePairs([s for s in samples if zlib.crc32(s.id.encode()) >= last], config),
            FilePairs([s for s in samples if zlib.crc32(s.id.encode()) < last], config))


class Steps(Dataset):
    """steps[s] is this process's part of the batch of step s: a function of the configuration, the neighbours and s.

    neighbours: (image, audio), each (N, k), or None: without them there are no semantically similar positives.
    """

    def __init__(self, source, config):
        self.source, self.config, self.neighbours = source, config, None
        if not config.batch_size <= len(source.ids):
            raise InputError("--batch-size", f"{config.batch_size} anchors a step are more than the {len(source.ids)} pairs")
        self.per_epoch = len(source.ids) // config.batch_size
        self.total = config.steps or config.epochs * self.per_epoch
        self.rank, self.world = dist.rank(), dist.world()  # workers that are not forks do not know
        if config.batch_size < self.world:
            raise InputError("--batch-size", f"{config.batch_size} anchors are too few for {self.world} processes")

    def __len__(self):
        return self.total

    def similar(self, i: int, which: int, rng) -> int:
        """A semantically similar sample of i: one of its k nearest in modality `which` (0: image, 1: audio)."""
        found = self.neighbours[which][i]
        return int(found[0 if self.config.sampling == "nearest" else rng.integers(min(self.config.k, len(found)))])

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.per_epoch)
        c, source = self.config, self.source
        order = np.random.default_rng([c.seed, 20, epoch]).permutation(len(source.ids))
        views = {"v": [], "v_aug": [], "v_conc": [], "a": [], "a_aug": [], "a_conc": []}
        drawn = []
        for slot in range(batch * c.batch_size + self.rank, (batch + 1) * c.batch_size, self.world):
            i, rng = int(order[slot]), np.random.default_rng([c.seed, 21, epoch, slot])
            image, sound = source.image(i), source.sound(i)
            views["v"].append(train_view(image, c.image_size, rng))
            views["a"].append(heard(sound, c))
            if c.view_image:
                views["v_aug"].append(crop_view(image, c.image_size, rng, (c.crop_scale, 1.0)))
                drawn.append(draw_colours(rng, c.jitter))
            if c.view_audio:
                views["a_aug"].append(heard(sound, c, shift=rng.uniform(-c.shift, c.shift)))
            if c.semantic_image and self.neighbours is not None:
                views["v_conc"].append(train_view(source.image(self.similar(i, 0, rng)), c.image_size, rng))
            if c.semantic_audio and self.neighbours is not None:
                views["a_conc"].append(heard(source.sound(self.similar(i, 1, rng)), c))
        stacked = {name: torch.stack(parts) for name, parts in views.items() if parts}
        if c.view_image:
            stacked["v_aug"] = colours(stacked["v_aug"], np.stack(drawn))
        return {"images": torch.stack([x for name, x in stacked.items() if name[0] == "v"]),  # V: (P, B, 3, H, W)
                "waveforms": torch.stack([x for name, x in stacked.items() if name[0] == "a"])}  # A: (Q, B, n)

    def loader(self, start: int, end: int):
        """Batches of the steps from `start` to `end`, read by config.workers processes. It draws nothing from torch's generator."""
        return DataLoader(self, None, sampler=range(start, end), num_workers=self.config.workers, generator=torch.Generator(),
                          pin_memory=torch.cuda.is_available(), prefetch_factor=4 if self.config.workers else None)
