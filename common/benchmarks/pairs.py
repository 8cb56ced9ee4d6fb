"""Image–audio pairs to train on, from embedded scenes or files, and how audio is read and cropped.

A source of pairs has `ids`, `image(i)` → (H, W, 3) uint8 and `waveform(i)` → (n,) float32 at
config.sample_rate. No label and no box is read.
"""
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.io import InputError, crop_audio, read_audio, read_image
from common.scenes import Scenes
from common.training import dist, progress_bar

from .readers import listed_samples, load_samples
from .samples import hold_out, readable_samples

VALIDATION, TEST = 10**6, 10**6 + 3  # seeds of held-out scenes; --seed, for training, is smaller
TEST_SETS = {"vggsound": "vggss", "flickr-soundnet": "flickr"}  # whose clips the lists may hold
LONE = 23  # stream of random numbers: which scenes have one object


def make_scenes(seed: int, config, objects: int = 2) -> Scenes:
    scenes = Scenes(seed, config.image_size, config.sample_rate, config.seconds or config.crop,
                    objects, config.objects, link=getattr(config, "link", False))
    scenes.clutter = getattr(config, "clutter", 0.0)  # a setting of avkd, as link is of sslalign
    return scenes


def read_waveform(path, config, clip=None) -> torch.Tensor:
    """The first `clip` seconds of a file, (n,); default: config.seconds, or all if that is 0."""
    seconds = clip or config.seconds or None
    return read_audio(path, config.sample_rate, config.channel, seconds=seconds)[0]


def read_waveform_around(path, config, span) -> torch.Tensor:
    """config.crop seconds around the middle of `span`, (start, end) in seconds, of a long file.
    At an end of the file they are its first or last seconds."""
    start = max(0.0, (sum(span) - config.crop) / 2)
    waveform, _ = read_audio(path, config.sample_rate, config.channel, start, config.crop)
    missing = config.crop - len(waveform) / config.sample_rate
    if missing > 0:
        start = max(0.0, start - missing)
        waveform, _ = read_audio(path, config.sample_rate, config.channel, start, config.crop)
    return cropped_waveform(waveform, config, config.crop)


def cropped_waveform(waveform, config, clip=None, shift: float = 0.0) -> torch.Tensor:
    """The model's input: config.crop seconds in the middle of the first `clip` seconds.
    clip: by default config.seconds, or all if that is 0. shift: so many seconds later."""
    duration = waveform.shape[-1] / config.sample_rate
    clip = clip or config.seconds or max(duration, config.crop)
    return crop_audio(waveform, config.sample_rate, clip, config.crop, shift)


def read_input(config, path) -> tuple:
    """An audio file → the waveform that the model takes, (n,), and its rate. InputError."""
    return cropped_waveform(read_waveform(path, config), config), config.sample_rate


class ScenePairs:
    """Embedded scenes of two objects, in memory; a share `lone` of them has one object."""

    def __init__(self, seed: int, count: int, config, lone: float = 0.0, first: int = 0,
                 object_scale: float = 1.0):
        scenes, alone = make_scenes(seed, config, 2), make_scenes(seed, config, 1)
        scenes.object_scale = alone.object_scale = object_scale
        self.is_alone = np.random.default_rng([seed, LONE]).random(count) < lone
        self.samples = [(alone if self.is_alone[i] else scenes).pair(first + i)
                        for i in progress_bar(range(count), name="drawing scenes")]
        bank = scenes.bank.fingerprint  # other objects are other pairs
        self.ids = [f"{bank:08x}-{seed}-{lone:g}-{first + i}" for i in range(count)]

    def image(self, i):
        return self.samples[i].image

    def waveform(self, i):
        return torch.from_numpy(self.samples[i].waveform)


def easy_pairs(config) -> ScenePairs:
    """Pairs to begin with: scenes of one object of twice the area, in images of half the side.

    Of the same seed as the ordinary scenes, with the indices after theirs."""
    small = replace(config, image_size=config.image_size // 2)
    return ScenePairs(config.seed, config.scenes, small, 1.0, config.scenes, object_scale=2.0)


class FilePairs:
    """Pairs of files: samples of a benchmark."""

    def __init__(self, samples, config):
        self.samples, self.config, self.ids = samples, config, [s.id for s in samples]

    def image(self, i):
        return read_image(self.samples[i].image)

    def waveform(self, i):
        return read_waveform(self.samples[i].audio, self.config)


def training_pairs(config) -> tuple:
    """→ pairs to train on, pairs held out for validation. Raises InputError."""
    if config.data not in ("scenes", "vggsound", "flickr-soundnet"):
        raise InputError("--data", f"{config.data!r} is none of scenes, vggsound, flickr-soundnet")
    check_source(config)
    if config.data == "scenes":
        return (ScenePairs(config.seed, config.scenes, config, config.lone),
                ScenePairs(VALIDATION, config.held_out, config))
    samples = load_samples(config.data, config.root, config.ids)
    samples = exclude_test_samples(samples, config)
    if config.skip_bad:
        samples = readable_samples(samples, "image", read_image)
        samples = readable_samples(samples, "audio", lambda path: read_waveform(path, config))
    return tuple(FilePairs(part, config) for part in hold_out(samples, config.held_out, "pairs"))


def exclude_test_samples(samples, config) -> list:
    """Prints how many samples are in the test lists of the training's benchmarks, and of the one
    that belongs to its data if ROOT has that list, and leaves out those of --exclude-test, whose
    list must be there. Raises InputError."""
    exclude, kept, lines = config.exclude_test, samples, []
    roots = dict(zip(config.benchmark, config.benchmark_root))
    for name in dict.fromkeys(filter(None, [TEST_SETS[config.data], exclude, *roots])):
        try:
            test = {sample.id for sample in listed_samples(name, roots.get(name, config.root))}
        except InputError as error:
            if name == exclude:
                raise
            lines.append(f"test samples of {name} among them: unknown, {error}")
            continue
        count = sum(sample.id in test for sample in samples)
        advice = "left out" if name == exclude else "--exclude-test leaves them out"
        lines.append(f"{count} of {len(samples)} are test samples of {name}, {advice}")
        if name == exclude:
            kept = [sample for sample in samples if sample.id not in test]
    if dist.rank() == 0:
        print("\n".join(f"{config.data}: {line}" for line in lines))
    return kept


def check_source(config):
    """Raises InputError if --seed draws held-out scenes, or --root is no folder to read."""
    if config.data == "scenes":
        if config.seed >= VALIDATION:
            raise InputError("--seed", f"{config.seed} is a held-out seed; the largest is "
                                       f"{VALIDATION - 1}")
    elif not config.root or not Path(config.root).is_dir():
        reason = f"not a folder; --root is the folder of {config.data}"
        raise InputError(config.root or "--root", reason)
