"""What stmnet is evaluated on: videos of scenes or of files, in one form.

A test set has `name`, `group` (prefix of its metrics, "" for the main one), `ids`, `num_listed`
(frames that the annotations name, None for scenes) and `video(i)` → Video.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.benchmarks import FRAME_RATE, listed_samples, load_samples, readable_samples
from common.io import InputError, read_audio, read_image

from .backbones.vggish import RATE, segments_at
from .data import BACKGROUND, INT16, TEST, make_scenes

BENCHMARKS = ("ave-boxes", "audioset-instrument")
GRAIN, OFFSET = 4, 2  # frames a second that scenes are drawn at, and which one of each is taken


class Video(NamedTuple):
    """T steps, about a second apart (4.2: the annotated frames)."""
    frames: list  # T of (H, W, 3) uint8
    segments: torch.Tensor  # (T, samples), the audio around each
    times: np.ndarray  # (T,) in seconds
    boxes: list  # T of (n, 4) x0, y0, x1, y1 in [0, 1], n = 0 if what sounds is not in view
    labels: list  # T class names, BACKGROUND if nothing sounds
    is_silent: np.ndarray  # (T,) bool: nothing sounds in the whole segment


class SceneVideos:
    """Held-out scenes, a step a second. turns: two objects take turns (Figure 6)."""

    def __init__(self, config, turns: bool = False):
        self.config, self.turns, self.num_listed = config, turns, None
        self.name, self.group = ("scenes, two take turns", "turns/") if turns else ("scenes", "")
        self.scenes = make_scenes(TEST, config)
        self.ids = [f"{'turns' if turns else 'video'}-{i:06d}" for i in range(config.test_videos)]

    def video(self, i) -> Video:
        c = self.config
        scene = self.scenes.video(i, GRAIN, c.video_seconds, self.turns, c.blurred)
        steps = np.arange(OFFSET, len(scene.frames), GRAIN)  # (T,)
        times, half = (steps + 0.5) / GRAIN, c.segment_seconds / 2
        waveform = torch.from_numpy(np.rint(scene.waveform * INT16) / INT16).float()
        first = np.maximum(0, ((times - half) * GRAIN).astype(int))
        end = np.ceil((times + half) * GRAIN).astype(int)
        is_silent = np.array([not scene.sounding[a:b].any() for a, b in zip(first, end)])
        boxes = [box[None][:int(box[2:].any())] for box in scene.boxes[steps]]
        labels = [self.scenes.names[k] if k >= 0 else BACKGROUND for k in scene.labels[steps]]
        segments = segments_at(waveform, times, c.samples)
        return Video(list(scene.frames[steps]), segments, times, boxes, labels, is_silent)


class FileVideos:
    """The annotated frames of AVE or AudioSet-Instrument, by video. Raises InputError."""

    def __init__(self, config, name: str, root: str):
        if name not in BENCHMARKS:
            raise InputError(name, f"none of {', '.join(BENCHMARKS)}, which have boxes of frames")
        self.config, self.name, self.group, self.videos = config, name, "", {}
        self.num_listed = len(listed_samples(name, root))
        samples = load_samples(name, root)
        if config.skip_bad:
            samples = readable_samples(samples, "image", read_image)
            samples = readable_samples(samples, "audio", read_audio)
        self.events = {}  # labels of AVE's videos: its boxes have numbers
        if name == "ave-boxes" and (Path(root) / "metadata" / "Annotations.txt").is_file():
            self.events = {s.id: s.label for s in listed_samples("ave", root)}
        for sample in samples:
            self.videos.setdefault(sample.group, []).append(sample)
        self.ids = sorted(self.videos)

    def video(self, i) -> Video:
        samples = sorted(self.videos[self.ids[i]], key=lambda s: s.seconds)
        times = np.array([s.seconds[0] + 0.5 / FRAME_RATE for s in samples])  # each second's first
        segments = segments_at(read_audio(samples[0].audio, RATE)[0], times, self.config.samples)
        is_silent = np.array([not len(s.boxes) for s in samples])
        labels = [BACKGROUND if silent else self.events.get(s.group, s.label)
                  for s, silent in zip(samples, is_silent)]
        return Video([read_image(s.image) for s in samples], segments, times,
                     [s.boxes for s in samples], labels, is_silent)


def load_test_sets(config, data: str, root: str) -> list:
    """The two test sets of scenes, or the one of a benchmark. Raises InputError."""
    if data == "scenes":
        return [SceneVideos(config), SceneVideos(config, turns=True)]
    return [FileVideos(config, data, root)]
