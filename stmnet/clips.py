"""What stmnet learns from: one random second of a video, T frames with a segment of sound each, and their labels (4.2).

A source of clips has `ids`, `classes` (names, the background last where there is one) and `draw(i, rng)` → T frames (H, W, 3) uint8,
segments (T, samples) and T numbers of labels. A step has the video's label or, with a background class, `background` where nothing
sounds then: AVE knows that by the second, scenes know it by the frame. Without that class every step has the video's label, as
in the paper ("we include the whole length of every video").
"""
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from common import benchmarks
from common.benchmarks import FRAME_RATE as FILE_FPS
from common.io import InputError, read_audio, read_image
from common.training import progress_bar
from common.scenes import Scenes

from .backbones.vggish import RATE

# Seeds of the held-out scenes; training uses --seed, which is smaller.
VALIDATION, TEST = 10**6, 10**6 + 19
BACKGROUND = "background"


def segments_at(waveform: torch.Tensor, times, samples: int) -> torch.Tensor:
    """(n,) at 16 kHz and T times in seconds → (T, samples), centred on the times; zeros where the waveform has nothing."""
    first = np.rint(np.asarray(times) * RATE).astype(np.int64) - samples // 2
    before, after = max(0, -int(first.min())), max(0, int(first.max()) + samples - len(waveform))
    padded = torch.nn.functional.pad(waveform, (before, after))
    return padded[torch.from_numpy(first)[:, None] + before + torch.arange(samples)]


def scenes_of(seed: int, config) -> Scenes:
    return Scenes(seed, config.image_size, RATE, folder=config.objects or None)


def classes_of(names, config) -> list[str]:
    return [*names, BACKGROUND] if config.background else list(names)


class SceneClips:
    """Videos of embedded scenes, drawn once and kept in memory, sound as 16 bit."""

    def __init__(self, seed: int, count: int, config):
        scenes = scenes_of(seed, config)
        self.config, self.classes, self.videos = config, classes_of(scenes.names, config), []
        for i in progress_bar(range(count), name="drawing scenes"):
            video = scenes.video(i, config.T, config.clip_seconds, blurred=config.blurred)
            self.videos.append(video._replace(waveform=np.rint(video.waveform * 32767).astype(np.int16), boxes=None))
        bank = scenes.bank.fingerprint  # other objects, other videos
        self.ids = [f"{bank:08x}-{seed}-{i}" for i in range(count)]

    def draw(self, i, rng):
        video, c = self.videos[i], self.config
        own = int(rng.integers(len(video.frames) - c.T + 1)) + np.arange(c.T)  # a second that begins with any frame
        labels = np.where(video.sounding[own] | (not c.background), video.cls, len(self.classes) - 1)
        waveform = torch.from_numpy(video.waveform.astype(np.float32) / 32767)
        return list(video.frames[own]), segments_at(waveform, (own + 0.5) / c.T, c.samples), labels


class FileClips:
    """Videos on disk as samples of common.benchmarks "ave": a folder of frames, FILE_FPS a second, a sound, an event."""

    def __init__(self, samples, classes, config):
        self.samples, self.classes, self.config, self.ids = samples, classes, config, [s.id for s in samples]
        self.seconds = [frames_in(s.image) // FILE_FPS for s in progress_bar(samples, name="looking for frames")]

    def draw(self, i, rng):
        sample, c = self.samples[i], self.config
        second = int(rng.integers(self.seconds[i]))
        own = second * FILE_FPS + np.arange(c.T) * FILE_FPS // c.T
        silent = c.background and not sample.seconds[0] <= second < sample.seconds[1]
        frames = [read_image(sample.image / f"{k:04d}.jpg") for k in own]
        sound = segments_at(read_audio(sample.audio, RATE)[0], (own + 0.5) / FILE_FPS, c.samples)
        return frames, sound, np.full(c.T, self.classes.index(BACKGROUND if silent else sample.label))


def frames_in(folder) -> int:
    """How many frames 0000.jpg, 0001.jpg, … a folder has. Raises InputError: none for a whole second, or one in the middle is missing."""
    names = {name for name in os.listdir(folder) if name.endswith(".jpg")}
    gone = [k for k in range(len(names)) if f"{k:04d}.jpg" not in names]
    if gone:
        raise InputError(folder, f"frame {gone[0]:04d}.jpg is missing")
    if len(names) < FILE_FPS:
        raise InputError(folder, f"{len(names)} frames are not one second of {FILE_FPS}")
    return len(names)


def ave(config):
    """→ FileClips to learn from, FileClips held out. Raises InputError."""
    root = config.root
    if not root or not Path(root).is_dir():
        raise InputError(root or "--root", "not a folder; --root names the one that holds ave")
    classes = classes_of(sorted({s.label for s in benchmarks.listed_samples("ave", root)}), config)
    samples = benchmarks.load_samples("ave", root, config.train_list or None)
    held_out = benchmarks.load_samples("ave", root, config.held_out_list) if config.held_out_list else []
    if config.skip_bad:
        samples, held_out = (readable(part) for part in (samples, held_out))
    if not config.held_out_list:  # those with the smallest checksums of their ids: the same for every seed
        if len(samples) <= config.held_out:
            raise InputError("--held-out", f"{config.held_out} of {len(samples)} videos leave nothing to learn from")
        last = sorted(zlib.crc32(s.id.encode()) for s in samples)[config.held_out]
        held_out = [s for s in samples if zlib.crc32(s.id.encode()) < last]
        samples = [s for s in samples if zlib.crc32(s.id.encode()) >= last]
    return FileClips(samples, classes, config), FileClips(held_out, classes, config)


def readable(samples) -> list:
    """Those of which every frame and the sound can be read; the others are named (--skip-bad)."""
    def frames(folder):
        for k in range(frames_in(folder)):
            read_image(folder / f"{k:04d}.jpg")
    return benchmarks.readable_samples(benchmarks.readable_samples(samples, "image", frames), "audio", lambda path: read_audio(path, RATE))


def clips(config):
    """→ clips to learn from, clips held out for validation, with the same classes. Raises InputError."""
    if config.data == "scenes":
        if config.seed >= VALIDATION:
            raise InputError("--seed", f"{config.seed} is a held-out seed; take one below {VALIDATION}")
        return SceneClips(config.seed, config.scenes, config), SceneClips(VALIDATION, config.held_out, config)
    if config.data != "ave":
        raise InputError("--data", f"{config.data!r} is neither scenes nor ave: only they have a list of videos to train on")
    if FILE_FPS % config.T:
        raise InputError("--T", f"{config.T} frames are not every so many of the {FILE_FPS} a second on disk")
    return ave(config)
