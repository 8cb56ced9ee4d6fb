"""What stmnet is evaluated on: videos of scenes, or of files, in one form.

A set has `name`, `group` (the prefix of its metrics, "" for the main one), `ids`, `listed` (how many frames the annotations name, None for
scenes) and `video(i)` → Video. Nothing is kept of a video that was looked at.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import benchmarks
from common.benchmarks import FRAME_RATE as FILE_FPS
from common.io import InputError, read_audio, read_image

from .clips import BACKGROUND, TEST, scenes_of, segments_at
from .backbones.vggish import RATE

FILES = ("ave-boxes", "audioset-instrument")
GRAIN = 4  # frames a second of scenes that are drawn, so that each lies within one stretch of sound or silence …
OFFSET = 2  # … and which one of every second is taken: the one at 0.625 s


class Video(NamedTuple):
    """T steps, about a second apart (4.2: the annotated frames)."""
    frames: list  # of T (H, W, 3) uint8
    segments: torch.Tensor  # (T, samples), what is heard at each
    times: np.ndarray  # (T,) in seconds
    boxes: list  # of T (n, 4) x0, y0, x1, y1 in [0, 1], n = 0 where nothing is seen to sound
    labels: list  # of T class names; BACKGROUND where nothing sounds
    silent: np.ndarray  # (T,) bool: nothing sounds in the whole segment


class SceneVideos:
    """Held-out scenes, the same for every seed of training, a step a second. turns: two objects take turns (Figure 6)."""

    def __init__(self, config, turns: bool = False):
        self.config, self.turns, self.listed = config, turns, None
        self.name, self.group = ("scenes, two take turns", "turns/") if turns else ("scenes", "")
        self.scenes = scenes_of(TEST, config)
        self.ids = [f"{'turns' if turns else 'video'}-{i:06d}" for i in range(config.test_videos)]

    def video(self, i) -> Video:
        drawn = self.scenes.video(i, GRAIN, self.config.video_seconds, self.turns, self.config.blurred)
        shown = np.arange(OFFSET, len(drawn.frames), GRAIN)
        times = (shown + 0.5) / GRAIN
        waveform = torch.from_numpy(np.rint(drawn.waveform * 32767) / 32767).float()  # 16 bit, as in training
        half = self.config.segment_seconds / 2
        heard = np.array([drawn.sounding[max(0, int((t - half) * GRAIN)):int(np.ceil((t + half) * GRAIN))].any() for t in times])
        boxes = [box[None][box[2:].any()[None]] for box in drawn.boxes[shown]]
        labels = [self.scenes.names[k] if k >= 0 else BACKGROUND for k in drawn.labels[shown]]
        return Video(list(drawn.frames[shown]), segments_at(waveform, times, self.config.samples), times, boxes, labels, ~heard)


class FileVideos:
    """The annotated frames of AVE (the user's own boxes) or AudioSet-Instrument (DSOL's), by video. Raises InputError."""

    def __init__(self, config, name: str, root: str):
        if name not in FILES:
            raise InputError(name, f"none of {', '.join(FILES)}: only they have boxes of a video's frames")
        self.config, self.name, self.group = config, name, ""
        self.listed = len(benchmarks.listed_samples(name, root))
        samples = benchmarks.load_samples(name, root)
        if config.skip_bad:
            samples = benchmarks.readable_samples(benchmarks.readable_samples(samples, "image", read_image), "audio", lambda path: read_audio(path, RATE))
        events = (Path(root) / "metadata" / "Annotations.txt").is_file() and name == "ave-boxes"  # there boxes have a number for a class
        self.labels = {s.id: s.label for s in benchmarks.listed_samples("ave", root)} if events else {}
        self.videos = {}
        for sample in samples:
            self.videos.setdefault(sample.group, []).append(sample)
        self.ids = sorted(self.videos)

    def video(self, i) -> Video:
        samples = sorted(self.videos[self.ids[i]], key=lambda s: s.seconds)
        times = np.array([s.seconds[0] + 0.5 / FILE_FPS for s in samples])  # the second's first frame: see common.benchmarks
        segments = segments_at(read_audio(samples[0].audio, RATE)[0], times, self.config.samples)
        boxes = [s.boxes for s in samples]
        labels = [self.labels.get(s.group, s.label) if len(s.boxes) else BACKGROUND for s in samples]
        frames, silent = [read_image(s.image) for s in samples], np.array([not len(b) for b in boxes])
        return Video(frames, segments, times, boxes, labels, silent)


def sets_of(config, data: str, root: str) -> list:
    """The two sets of `scenes`, or the one of a benchmark. Raises InputError."""
    return [SceneVideos(config), SceneVideos(config, turns=True)] if data == "scenes" else [FileVideos(config, data, root)]
