"""Training data (4.2): a random second of a video, T frames with the audio around each, and labels.

A source of clips has `ids`, `classes` (names, `background` last if it is one) and `draw(i, rng)` →
frames (T of (H, W, 3) uint8), segments (T, n), labels (T,). A step has the label of its video or,
with a background class, `background` if nothing sounds then. AVE says that for each second, scenes
for each frame. Without that class every step has the video's label, as in the paper: "we include
the whole length of every video".
"""
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from common import benchmarks
from common.benchmarks import FRAME_RATE
from common.io import InputError, read_audio, read_image
from common.scenes import Scenes
from common.training import dist, progress_bar

from .backbones.vggish import RATE, segments_at
from .backbones.views import draw_view, test_view, train_view

VALIDATION, TEST = 10**6, 10**6 + 19  # seeds of held-out scenes; --seed of training is smaller
ORDER, CLIP, VALIDATION_CLIP = 20, 21, 22  # streams of random numbers
BACKGROUND = "background"
INT16 = 32767


def make_scenes(seed: int, config) -> Scenes:
    return Scenes(seed, config.image_size, RATE, folder=config.objects or None)


def class_names(names, config) -> list[str]:
    return [*names, BACKGROUND] if config.background else list(names)


class SceneClips:
    """Videos of embedded scenes, composed once and kept in memory, with 16-bit audio."""

    def __init__(self, seed: int, count: int, config):
        scenes = make_scenes(seed, config)
        self.config, self.classes, self.videos = config, class_names(scenes.names, config), []
        for i in progress_bar(range(count), name="drawing scenes"):
            video = scenes.video(i, config.T, config.clip_seconds, blurred=config.blurred)
            waveform = np.rint(video.waveform * INT16).astype(np.int16)
            self.videos.append(video._replace(waveform=waveform, boxes=None))
        bank = scenes.bank.fingerprint  # other objects, other videos
        self.ids = [f"{bank:08x}-{seed}-{i}" for i in range(count)]

    def draw(self, i, rng):
        video, c = self.videos[i], self.config
        frames = int(rng.integers(len(video.frames) - c.T + 1)) + np.arange(c.T)
        is_event = video.sounding[frames] | (not c.background)
        labels = np.where(is_event, video.cls, len(self.classes) - 1)
        waveform = torch.from_numpy(video.waveform.astype(np.float32) / INT16)
        segments = segments_at(waveform, (frames + 0.5) / c.T, c.samples)
        return list(video.frames[frames]), segments, labels


class FileClips:
    """Samples of the benchmark "ave": FRAME_RATE frames a second in a folder, audio, an event."""

    def __init__(self, samples, classes, config):
        self.samples, self.classes, self.config = samples, classes, config
        self.ids = [s.id for s in samples]
        self.seconds = [count_frames(s.image) // FRAME_RATE
                        for s in progress_bar(samples, name="counting frames")]

    def draw(self, i, rng):
        sample, c = self.samples[i], self.config
        second = int(rng.integers(self.seconds[i]))
        frames = second * FRAME_RATE + np.arange(c.T) * FRAME_RATE // c.T
        is_event = sample.seconds[0] <= second < sample.seconds[1] or not c.background
        label = self.classes.index(sample.label if is_event else BACKGROUND)
        images = [read_image(sample.image / f"{k:04d}.jpg") for k in frames]
        waveform = read_audio(sample.audio, RATE)[0]
        segments = segments_at(waveform, (frames + 0.5) / FRAME_RATE, c.samples)
        return images, segments, np.full(c.T, label)


def count_frames(folder) -> int:
    """How many frames 0000.jpg, 0001.jpg, … a folder has.

    Raises InputError if there is not one second of them, or if one in the middle is missing.
    """
    names = {name for name in os.listdir(folder) if name.endswith(".jpg")}
    missing = [k for k in range(len(names)) if f"{k:04d}.jpg" not in names]
    if missing:
        raise InputError(folder, f"frame {missing[0]:04d}.jpg is missing")
    if len(names) < FRAME_RATE:
        raise InputError(folder, f"{len(names)} frames are not one second of {FRAME_RATE}")
    return len(names)


def readable_videos(samples) -> list:
    """Those of which every frame and the audio can be read; the others are listed."""
    def read_frames(folder):
        for k in range(count_frames(folder)):
            read_image(folder / f"{k:04d}.jpg")

    samples = benchmarks.readable_samples(samples, "image", read_frames)
    return benchmarks.readable_samples(samples, "audio", lambda path: read_audio(path, RATE))


def ave_clips(config):
    """AVE → clips to train on, clips for validation. Raises InputError."""
    root = config.root
    if not root or not Path(root).is_dir():
        raise InputError(root or "--root", "not a folder; --root names the one that holds ave")
    labels = {s.label for s in benchmarks.listed_samples("ave", root)}
    samples = benchmarks.load_samples("ave", root, config.train_list or None)
    held_out = []
    if config.held_out_list:
        held_out = benchmarks.load_samples("ave", root, config.held_out_list)
    if config.skip_bad:
        samples, held_out = readable_videos(samples), readable_videos(held_out)
    if not config.held_out_list:  # those with the smallest checksums: the same for every seed
        if len(samples) <= config.held_out:
            raise InputError("--held-out", f"{config.held_out} of {len(samples)} videos leave none "
                             "to train on")
        by_checksum = sorted((s.id for s in samples), key=lambda name: zlib.crc32(name.encode()))
        first = set(by_checksum[:config.held_out])
        held_out = [s for s in samples if s.id in first]
        samples = [s for s in samples if s.id not in first]
    classes = class_names(sorted(labels), config)
    return FileClips(samples, classes, config), FileClips(held_out, classes, config)


def training_clips(config):
    """Clips to train on, clips for validation, with the same classes. Raises InputError."""
    if config.data == "scenes":
        if config.seed >= VALIDATION:
            raise InputError("--seed", f"{config.seed} is a held-out seed: take one below "
                             f"{VALIDATION}")
        return (SceneClips(config.seed, config.scenes, config),
                SceneClips(VALIDATION, config.held_out, config))
    if config.data != "ave":
        raise InputError("--data", f"{config.data!r} is neither scenes nor ave, the two data sets "
                         "with a list of training videos")
    if FRAME_RATE % config.T:
        raise InputError("--T", f"{config.T} does not divide the {FRAME_RATE} frames a second on "
                         "disk")
    return ave_clips(config)


def load_clip(source, i: int, config, rng) -> dict:
    """A random second of video i → {"frames" (T, 3, S, S), "segments" (T, n), "labels" (T,)}.

    With config.augment all frames are cropped at one place (4.2) and uint8.
    """
    frames, segments, labels = source.draw(i, rng)
    if config.augment:
        crop = (*draw_view(config.image_size, rng)[:2], False)  # the paper mirrors nothing
        views = [train_view(frame, config.image_size, crop) for frame in frames]
    else:
        views = [test_view(frame, config.image_size) for frame in frames]
    return {"frames": torch.stack(views), "segments": segments, "labels": torch.as_tensor(labels)}


def stack_clips(clips: list) -> dict:
    return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}


class TrainingBatches(Dataset):
    """Item s is this process's part of the batch of step s, a function of configuration and s."""

    def __init__(self, source, config):
        self.source, self.config = source, config
        if config.batch_size > len(source.ids):
            raise InputError("--batch-size", f"{config.batch_size} clips a step are more than the "
                             f"{len(source.ids)} videos")
        self.steps_per_epoch = len(source.ids) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.rank, self.world_size = dist.rank(), dist.world_size()  # workers cannot ask
        if config.batch_size < self.world_size:
            raise InputError("--batch-size", f"{config.batch_size} clips are too few for "
                             f"{self.world_size} processes")

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        c = self.config
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([c.seed, ORDER, epoch]).permutation(len(self.source.ids))
        slots = range(batch * c.batch_size, (batch + 1) * c.batch_size)[self.rank::self.world_size]
        return stack_clips([
            load_clip(self.source, int(order[slot]), c,
                      np.random.default_rng([c.seed, CLIP, epoch, slot])) for slot in slots])
