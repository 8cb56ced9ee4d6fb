"""Pairs of a picture and a sound, of scenes or of files, and how they are read.

A source of pairs has `ids`, `image(i)` → (H, W, 3) uint8 and `sound(i)` → (n,) at config.sample_rate; no label is ever read.
"""
import zlib
from pathlib import Path

import numpy as np
import torch

from common.io import InputError, crop_audio, read_audio, read_image
from common.training import progress_bar
from common.scenes import Scenes

from .readers import load_samples
from .samples import readable_samples

# Seeds of the held-out scenes; training uses --seed, which is smaller.
VALIDATION, TEST = 10**6, 10**6 + 3


def make_scenes(seed: int, config, objects: int = 2) -> Scenes:
    return Scenes(seed, config.image_size, config.sample_rate, config.seconds or config.crop, objects, config.objects or None)


def read_waveform(path, config, clip=None):
    """A sound file → waveform at config.sample_rate, not longer than `clip` seconds (default: config.seconds; 0: all of it)."""
    return read_audio(path, config.sample_rate, config.channel, seconds=clip or config.seconds or None)[0]


def read_waveform_around(path, config, span):
    """What the model hears of one frame of a long video: config.crop seconds around the middle of `span`, (start, end) in
    seconds; at an end of the file the first or last ones."""
    waveform = read_audio(path, config.sample_rate, config.channel, max(0.0, (sum(span) - config.crop) / 2), config.crop)[0]
    missing = config.crop - len(waveform) / config.sample_rate
    if missing > 0:
        start = max(0.0, (sum(span) - config.crop) / 2 - missing)
        waveform = read_audio(path, config.sample_rate, config.channel, start, config.crop)[0]
    return cropped_waveform(waveform, config, config.crop)


def cropped_waveform(waveform, config, clip=None, shift: float = 0.0):
    """The part of a sound that the model hears: config.crop seconds around the middle of its first `clip` seconds (default:
    config.seconds; 0: of all of it), or `shift` seconds later."""
    clip = clip or config.seconds or max(waveform.shape[-1] / config.sample_rate, config.crop)
    return crop_audio(waveform, config.sample_rate, clip, config.crop, shift)


class ScenePairs:
    """Pairs made of embedded scenes, drawn once and kept in memory; a share `lone` of them without a silent second object."""

    def __init__(self, seed: int, count: int, config, lone: float = 0.0):
        scenes = make_scenes(seed, config, 2), make_scenes(seed, config, 1)
        alone = np.random.default_rng([seed, 23]).random(count) < lone
        self.samples = [scenes[int(alone[i])].pair(i) for i in progress_bar(range(count), name="drawing scenes")]
        bank = scenes[0].bank.fingerprint  # other objects, other pairs
        self.ids = [f"{bank:08x}-{seed}-{lone:g}-{i}" for i in range(count)]

    def image(self, i):
        return self.samples[i].image

    def waveform(self, i):
        return torch.from_numpy(self.samples[i].waveform)


class FilePairs:
    """Pairs of files: samples of common.benchmarks."""

    def __init__(self, samples, config):
        self.samples, self.config, self.ids = samples, config, [s.id for s in samples]

    def image(self, i):
        return read_image(self.samples[i].image)

    def waveform(self, i):
        return read_waveform(self.samples[i].audio, self.config)


def training_pairs(config):
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
    samples = load_samples(config.data, config.root, config.ids or None)
    if config.skip_bad:
        samples = readable_samples(samples, "image", read_image)
        samples = readable_samples(samples, "audio", lambda path: read_waveform(path, config))
    if len(samples) <= config.held_out:
        raise InputError("--held-out", f"{config.held_out} of {len(samples)} pairs leave nothing to learn from")
    last = sorted(zlib.crc32(s.id.encode()) for s in samples)[config.held_out]
    return (FilePairs([s for s in samples if zlib.crc32(s.id.encode()) >= last], config),
            FilePairs([s for s in samples if zlib.crc32(s.id.encode()) < last], config))
