"""The two domains that TURN learns from (section 3.1), from embedded scenes or from files.

The source domain has images, phrases and boxes, the intermediate domain audio and captions. No
item of either has an image and audio together.
"""
from functools import partial

import numpy as np
import torch

from common.benchmarks.corpora import load_corpora, read_sized
from common.benchmarks.pairs import VALIDATION, check_source, make_scenes
from common.training import progress_bar

from .backbones.frontend import logmel_of, read_logmel

# Captions of a clip in scenes, and how loud another object and noise sound beside what they tell
CLIPS = {"clotho": (5, 0.0), "audiocaps": (1, 0.5)}


class Domain:
    """A list-like: [i] is an image (H, W, 3) uint8 and a box (4,), cx, cy, w, h in [0, 1], or a
    log-mel spectrogram (L_m, c); texts[i] are its phrases or captions, labels (N,) the classes."""

    def __init__(self, items, texts, load=None, labels=None):
        self.items, self.texts, self.load, self.labels = items, texts, load, labels

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.load(self.items[i]) if self.load else self.items[i]

    def all_texts(self) -> list:
        return [text for texts in self.texts for text in texts]


def load_domains(config, split: str) -> tuple[Domain, Domain]:
    """Source and intermediate domain of a split, "train" or "validation". Raises InputError."""
    if config.data != "scenes":
        phrases, clips = load_corpora(config, split.replace("validation", "val"))
        return (Domain(phrases, [(item.phrase,) for item in phrases], _read_image_and_box),
                Domain([clip.audio for clip in clips], [clip.captions for clip in clips],
                       partial(read_logmel, config=config)))
    check_source(config)
    seed, *counts = VALIDATION, config.held_out, config.held_out
    if split == "train":
        seed, *counts = config.seed, config.scenes, config.sounds
    return scene_source(seed, counts[0], config), scene_intermediate(seed, counts[1], config)


def scene_source(seed: int, count: int, config) -> Domain:
    """Embedded scenes, composed once and kept in memory."""
    scenes, items, phrases = make_scenes(seed, config), [], []
    scenes.exclusive, scenes.style = config.exclusive, config.phrases
    for i in progress_bar(range(count), name="scenes"):
        image, phrase, (x0, y0, x1, y1), _ = scenes.grounding(i)
        items.append((image, np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])))
        phrases.append((phrase,))
    return Domain(items, phrases)


def scene_intermediate(seed: int, count: int, config) -> Domain:
    """Embedded audio, kept in memory as log-mel spectrograms."""
    scenes, logmels, texts, labels = make_scenes(seed, config), [], [], []
    scenes.exclusive = config.exclusive
    captions, scenes.clutter = CLIPS[config.clips]
    for i in progress_bar(range(count), name="captioned audio"):
        item = scenes.caption(i)
        logmels.append(logmel_of(torch.from_numpy(item.waveform), config))
        texts.append(item.captions[:captions])
        labels.append(item.cls)
    return Domain(logmels, texts, labels=torch.tensor(labels))


def _read_image_and_box(item):
    return read_sized(item.image, item.size), np.asarray(item.box, np.float32)
