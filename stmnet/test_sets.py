"""What stmnet is evaluated on: videos of scenes or of files, in one form.

A test set has `name`, `group` (prefix of its metrics, "" for the main one), `ids`, `num_listed`
(frames that the annotations name, None for scenes) and `video(i)` → Video.
"""
from typing import NamedTuple

import numpy as np
import torch

from common.benchmarks.videos import AnnotatedVideos
from common.io import read_audio

from .backbones.vggish import RATE, segments_at
from .data import BACKGROUND, INT16, TEST, make_scenes

GRAIN = 4  # frames a second of scenes, of which one is annotated


class Video(NamedTuple):
    """N steps, of which T are annotated and scored: `rows` are their numbers."""
    frames: list  # N of (H, W, 3) uint8, read when they are asked for
    segments: torch.Tensor  # (N, samples), the audio around each
    fps: float  # frames a second
    rows: np.ndarray  # (T,)
    times: np.ndarray  # (T,) in seconds
    boxes: list  # T of (n, 4) x0, y0, x1, y1 in [0, 1], n = 0 if what sounds is not in view
    labels: list  # T class names, BACKGROUND if nothing sounds
    is_silent: np.ndarray  # (T,) bool: nothing sounds in the whole segment
    sounds: set  # what is heard in the video: classes, on scenes their timbres


class SceneVideos:
    """Held-out scenes with GRAIN steps a second. turns: two objects take turns (Figure 6)."""

    def __init__(self, config, turns: bool = False):
        self.config, self.turns, self.num_listed = config, turns, None
        self.name, self.group = ("scenes, two take turns", "turns/") if turns else ("scenes", "")
        self.scenes = make_scenes(TEST, config)
        self.ids = [f"{'turns' if turns else 'video'}-{i:06d}" for i in range(config.test_videos)]

    def video(self, i) -> Video:
        c = self.config
        scene = self.scenes.video(i, GRAIN, c.video_seconds, self.turns)
        times, half = (np.arange(len(scene.frames)) + 0.5) / GRAIN, c.segment_seconds / 2  # (N,)
        waveform = torch.from_numpy(np.rint(scene.waveform * INT16) / INT16).float()
        rows = np.arange(GRAIN // 2, len(times), GRAIN)  # (T,)
        first = np.maximum(0, ((times[rows] - half) * GRAIN).astype(int))
        end = np.ceil((times[rows] + half) * GRAIN).astype(int)
        is_silent = np.array([not scene.sounding[a:b].any() for a, b in zip(first, end)])
        boxes = [box[None][:int(box[2:].any())] for box in scene.boxes[rows]]
        labels = [self.scenes.names[k] if k >= 0 else BACKGROUND for k in scene.labels[rows]]
        sounds = set((scene.labels[scene.sounding] // 2).tolist())  # 2i and 2i + 1 sound alike
        return Video(list(scene.frames), segments_at(waveform, times, c.samples), GRAIN, rows,
                     times[rows], boxes, labels, is_silent, sounds)


class FileVideos:
    """Videos of AVE or AudioSet-Instrument of which frames are annotated. Raises InputError."""

    def __init__(self, config, name: str, root: str, ids: str = ""):
        self.config, self.name, self.group = config, name, ""
        self.videos = AnnotatedVideos(name, root, config.skip_bad, ids or None)
        self.num_listed, self.ids = self.videos.num_listed, self.videos.ids

    def video(self, i) -> Video:
        frames, first, fps, rows, samples, labels = self.videos.video(i)
        times = (first + np.arange(len(frames)) + 0.5) / fps
        segments = segments_at(read_audio(samples[0].audio, RATE)[0], times, self.config.samples)
        is_silent = np.array([not len(s.boxes) for s in samples])
        labels = [BACKGROUND if silent else label for label, silent in zip(labels, is_silent)]
        return Video(frames, segments, fps, rows, times[rows], [s.boxes for s in samples], labels,
                     is_silent, set(", ".join(labels).split(", ")) - {BACKGROUND})


def load_test_sets(config, data: str, root: str, ids: str = "") -> list:
    """The two test sets of scenes, or the one of a benchmark. Raises InputError."""
    if data == "scenes":
        return [SceneVideos(config), SceneVideos(config, turns=True)]
    return [FileVideos(config, data, root, ids)]
