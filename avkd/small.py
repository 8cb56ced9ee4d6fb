"""The two small teachers of the embedded default, for which no checkpoint is needed.

They stand where DETR and PANNs stand with real data: a detector, which says what is at each
position of an image, and a classifier of audio. As in 3.4, "students and teachers were trained on
distinct datasets and tasks": each is trained on its own task, on scenes that no student sees. Their
last features before the classifier are the hints.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.benchmarks.pairs import cropped_waveform, make_scenes
from common.io import atomic, load_published
from common.scenes import ENCODER_AUDIO, ENCODER_IMAGES
from common.training import fit, progress_bar

from .backbones.frontend import log_spectrogram
from .backbones.resnet import BasicBlock, ResNet
from .backbones.views import normalise, test_view

SEED = 10**6 + 7  # of their scenes: no seed of training, validation or test
BATCH_ROWS = 11  # stream of random numbers
COUNT, BATCH, LR = 3000, 32, 5e-3
SETTINGS = ("image_size", "sample_rate", "seconds", "crop", "window", "hop", "blocks", "width",
            "last_stride", "channels", "teacher_steps")  # of the teachers


class Detector(nn.Module):
    """(n, 3, H, W) → logits (n, classes + 1, h, w) of what is there; the last class is nothing."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.config = config
        self.body = ResNet(BasicBlock, config.blocks, config.width, num_classes=None,
                           last_stride=config.last_stride)
        self.projection = nn.Conv2d(self.body.channels, config.channels, 1)
        self.classify = nn.Conv2d(config.channels, classes + 1, 1)

    def view(self, source, i):
        return test_view(source.image(i), self.config.image_size)

    def hint(self, images):
        """(n, 3, H, W) uint8, or float in [0, 1] → e_v (n, c, h, w)."""
        x = normalise(images).contiguous(memory_format=torch.channels_last)
        return F.relu(self.projection(self.body.features(x)))

    def forward(self, images):
        return self.classify(self.hint(images))


class AudioClassifier(nn.Module):
    """(n, samples) → logits (n, classes) of what sounds."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.config = config
        self.body = ResNet(BasicBlock, config.blocks, config.width, in_channels=1,
                           num_classes=None)
        self.projection = nn.Linear(self.body.channels, config.channels)
        self.classify = nn.Linear(config.channels, classes)

    def view(self, source, i):
        return cropped_waveform(source.waveform(i), self.config)

    def hint(self, waveforms):
        """(n, samples) in [-1, 1] → e_a (n, c)."""
        c = self.config
        x = log_spectrogram(waveforms, c.sample_rate, window=c.window, hop=c.hop)
        return F.relu(self.projection(self.body.features(x[:, None]).mean((2, 3))))

    def forward(self, waveforms):
        return self.classify(self.hint(waveforms))


def cell_classes(scene, side: int, nothing: int) -> np.ndarray:
    """What is at each position of a map: (side, side) int, the class whose box holds its centre.

    Of several boxes the smallest counts; outside of all it is `nothing`.
    """
    centre = (np.arange(side) + 0.5) / side
    classes = np.full((side, side), nothing)
    area = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    for k in np.argsort(-area, kind="stable"):
        x0, y0, x1, y1 = scene.boxes[k]
        rows, columns = (y0 <= centre) & (centre < y1), (x0 <= centre) & (centre < x1)
        classes[np.ix_(rows, columns)] = scene.classes[k]
    return classes


def draw_images(scenes, config, count: int) -> tuple:
    """Images (count, 3, H, W) uint8 and the classes in their cells (count, h, w)."""
    images, targets = [], []
    for i in progress_bar(range(count), name="drawing the visual teacher's scenes"):
        rng = scenes.rng(ENCODER_IMAGES, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        targets.append(torch.from_numpy(cell_classes(scene, config.side, len(scenes.names))))
    return torch.stack(images), torch.stack(targets)


def draw_audio(scenes, config, count: int) -> tuple:
    """Waveforms (count, samples) and their classes (count,)."""
    waveforms, targets = [], []
    for i in progress_bar(range(count), name="drawing the audio teacher's clips"):
        rng = scenes.rng(ENCODER_AUDIO, i)
        targets.append(int(rng.integers(len(scenes.names))))
        waveforms.append(torch.from_numpy(scenes.waveform(targets[-1], rng, config.crop)[0]))
    return torch.stack(waveforms), torch.tensor(targets)


# hint → teacher, its data, and the divisor of --teacher-steps: audio needs half as many steps
TASKS = {"e_v": (Detector, draw_images, 1), "e_a": (AudioClassifier, draw_audio, 2)}


def make_teacher(name: str, config, device="cpu"):
    """The teacher that gives hints `name`, e_v or e_a: read from its file, or trained and written.

    It is trained with cross-entropy, Adam and a cosine. torch's generator is left as it was.
    """
    kind, draw, divisor = TASKS[name]
    scenes, path = make_scenes(SEED, config), weights_path(name, config)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        net = kind(config, len(scenes.names)).to(device, memory_format=torch.channels_last)
    if path.is_file():
        return load_published(net, path).eval()
    steps = max(config.teacher_steps // divisor, 1)
    inputs, targets = (x.to(device) for x in draw(scenes, config, min(COUNT, steps * BATCH)))
    fit(net, F.cross_entropy, inputs, targets, steps=steps, batch_size=BATCH, lr=LR,
        seed=[SEED, BATCH_ROWS], name=f"training the teacher of {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        torch.save(net.state_dict(), file)
    return net.eval()


def fingerprint(config) -> dict:
    """What tells these teachers from others, as plain data."""
    settings = {name: json.loads(json.dumps(getattr(config, name))) for name in SETTINGS}
    return {**settings, "bank": make_scenes(SEED, config).bank.fingerprint}


def folder(config) -> Path:
    """Where the teachers of a configuration and their hints are; all runs that can share them."""
    mark = zlib.crc32(json.dumps(fingerprint(config)).encode())
    return Path(config.out) / "avkd" / "teachers" / f"{mark:08x}"


def weights_path(name: str, config) -> Path:
    return folder(config) / f"{name}.pt"
