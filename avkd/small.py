"""The two small teachers of the embedded default, each trained on its own task, on scenes that no student sees (3.4: "students
and teachers were trained on distinct datasets and tasks").

They stand where DETR and PANNs stand with real data: a detector, which says what is at each position of a picture, and a classifier of
sounds. Their last features before the classifier are the hints.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.io import atomic
from common.training import cosine_schedule, progress_bar
from common.io import load_published

from .backbones.frontend import log_spectrogram
from common.benchmarks.pairs import cropped_waveform, make_scenes
from common.scenes import ENCODER_AUDIO, ENCODER_IMAGES
from .backbones.resnet import BasicBlock, ResNet
from .backbones.views import normalise, test_view

SEED = 10**6 + 7  # of the teachers' scenes: no seed of training, validation or test
COUNT, BATCH, LR = 3000, 32, 5e-3


class Detector(nn.Module):
    """What is at each position of the map: (n, 3, H, W) → logits (n, classes + 1, h, w), the last class for nothing."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.config = config
        self.body = ResNet(BasicBlock, config.blocks, config.width, num_classes=None, last_stride=config.last_stride)
        self.projection = nn.Conv2d(self.body.channels, config.channels, 1)
        self.classify = nn.Conv2d(config.channels, classes + 1, 1)

    def view(self, source, i):
        return test_view(source.image(i), self.config.image_size)

    def hint(self, images):
        """(n, 3, H, W) uint8, or float in [0, 1] → e_v (n, c, h, w)."""
        return F.relu(self.projection(self.body.features(normalise(images).contiguous(memory_format=torch.channels_last))))

    def forward(self, images):
        return self.classify(self.hint(images))


class Listener(nn.Module):
    """Which class sounds: (n, samples) → logits (n, classes)."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.config = config
        self.body = ResNet(BasicBlock, config.blocks, config.width, in_channels=1, num_classes=None)
        self.projection = nn.Linear(self.body.channels, config.channels)
        self.classify = nn.Linear(config.channels, classes)

    def view(self, source, i):
        return cropped_waveform(source.waveform(i), self.config)

    def hint(self, waveforms):
        """(n, samples) in [-1, 1] → e_a (n, c)."""
        c = self.config
        spectrogram = log_spectrogram(waveforms, c.sample_rate, window=c.window, hop=c.hop)
        return F.relu(self.projection(self.body.features(spectrogram[:, None]).mean((2, 3))))

    def forward(self, waveforms):
        return self.classify(self.hint(waveforms))


def cells(scene, side: int, nothing: int) -> np.ndarray:
    """What is at each position of a map: (side, side) int, the class whose box holds the centre of the cell, of several the
    smallest; `nothing` outside all boxes."""
    centre = (np.arange(side) + 0.5) / side
    found = np.full((side, side), nothing)
    area = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    for k in np.argsort(-area, kind="stable"):
        x0, y0, x1, y1 = scene.boxes[k]
        found[np.ix_((y0 <= centre) & (centre < y1), (x0 <= centre) & (centre < x1))] = scene.classes[k]
    return found


def detections(scenes, config, count: int) -> tuple:
    """Pictures (count, 3, H, W) uint8 and what is in their cells (count, h, w)."""
    images, targets = [], []
    for i in progress_bar(range(count), name="drawing the visual teacher's scenes"):
        rng = scenes.rng(ENCODER_IMAGES, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        targets.append(torch.from_numpy(cells(scene, config.side, len(scenes.names))))
    return torch.stack(images), torch.stack(targets)


def sounds(scenes, config, count: int) -> tuple:
    """Sounds (count, samples) and their classes (count,)."""
    waveforms, targets = [], []
    for i in progress_bar(range(count), name="drawing the audio teacher's sounds"):
        rng = scenes.rng(ENCODER_AUDIO, i)
        targets.append(int(rng.integers(len(scenes.names))))
        waveforms.append(torch.from_numpy(scenes.waveform(targets[-1], rng, config.crop)[0]))
    return torch.stack(waveforms), torch.tensor(targets)


TASKS = {"e_v": (Detector, detections, 1), "e_a": (Listener, sounds, 2)}  # sounds need half the steps


def teacher(name: str, config, device="cpu"):
    """The teacher that gives hints `name`, in evaluation mode: read from its file, or trained and written there.

    The plainest supervised training: cross-entropy, Adam, a cosine. torch's generator is left as it was.
    """
    kind, draw, fewer = TASKS[name]
    scenes, path = make_scenes(SEED, config), weights(name, config)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        net = kind(config, len(scenes.names)).to(device, memory_format=torch.channels_last)
    if path.is_file():
        return load_published(net, path).eval()
    steps = max(config.teacher_steps // fewer, 1)
    inputs, targets = (x.to(device) for x in draw(scenes, config, min(COUNT, steps * BATCH)))
    optimizer = torch.optim.Adam(net.parameters(), LR, fused=True)
    for step in progress_bar(range(steps), name=f"training the teacher of {name}"):
        rows = torch.from_numpy(np.random.default_rng([SEED, 11, step]).integers(len(inputs), size=BATCH)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = LR * cosine_schedule(step, steps, max(steps // 20, 1))
        loss = F.cross_entropy(net(inputs[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        torch.save(net.state_dict(), file)
    return net.eval()


def made_of(config) -> dict:
    """What tells these teachers from others: plain data."""
    names = ("image_size", "sample_rate", "seconds", "crop", "window", "hop", "blocks", "width", "last_stride", "channels", "teacher_steps")
    return {**{name: json.loads(json.dumps(getattr(config, name))) for name in names}, "bank": make_scenes(SEED, config).bank.fingerprint}


def folder(config) -> Path:
    """Where the teachers of a configuration and their hints are: all runs that could use them share it."""
    return Path(config.out) / "avkd" / "teachers" / f"{zlib.crc32(json.dumps(made_of(config)).encode()):08x}"


def weights(name: str, config) -> Path:
    return folder(config) / f"{name}.pt"
