"""The small networks of the embedded default, for which no published weights are needed.

| here | stands for | its task |
| --- | --- | --- |
| ImageClassifier | ImageNet's ResNet-18 | which object is in an image of one |
| Detector | DETR, the visual teacher | the boxes of objects, of whatever class |
| AudioClassifier | PANNs, the audio teacher | which object is the source of a clip |

As in 3.4, "students and teachers were trained on distinct datasets and tasks": these on scenes that
no student sees. The detector does not tell classes apart, as DETR's attention does not.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.benchmarks.pairs import cropped_waveform, make_scenes
from common.io import load_published, write_checkpoint
from common.scenes import ENCODER_AUDIO, ENCODER_IMAGES
from common.training import fit, progress_bar

from ..model import resnet
from .frontend import log_spectrogram
from .views import normalise, test_view

SEED = 10**6 + 7  # of their scenes: no seed of training, validation or test
BATCH_ROWS = 11  # stream of random numbers
BATCH, LR = 32, 5e-3
SETTINGS = ("image_size", "sample_rate", "seconds", "crop", "window", "hop", "blocks",
            "bottleneck", "width", "last_stride", "channels", "teacher_steps",
            "teacher_clips", "clutter")


class ImageClassifier(nn.Module):
    """(n, 3, H, W) → logits (n, classes) of the object in each image."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.body = resnet(config, num_classes=classes, last_stride=config.last_stride)

    def features(self, images):
        """(n, 3, H, W) uint8, or float in [0, 1] → (n, C, h, w)."""
        x = normalise(images).contiguous(memory_format=torch.channels_last)
        return self.body.features(x)

    def forward(self, images):
        return self.body.fc(self.features(images).mean((2, 3)))


class Detector(ImageClassifier):
    """(n, 3, H, W) → (n, 5, h, w): at each position the logit of an object's centre, and how far
    its box reaches to the left, top, right and bottom, as a share of the image.

    Zhou et al. 2019, "Objects as Points", with a map for all classes."""

    def __init__(self, config, classes: int):
        super().__init__(config, classes)
        self.config, self.head = config, nn.Conv2d(self.body.channels, 5, 1)

    def forward(self, images):
        return self.head(self.features(images))

    def view(self, source, i):
        return test_view(source.image(i), self.config.image_size)

    def detect(self, images):
        """→ confidence (n, Q), attention (n, Q, h, w), as of DETR's queries, one a position.

        A position whose centre probability is not the largest of the 3 × 3 around it has no
        confidence. Attention is even over the box that starts there, and sums to 1."""
        logits, *reach = self(images).unbind(1)  # (n, h, w) each
        h, w = logits.shape[1:]
        score = logits.sigmoid()[:, None]
        is_peak = score == F.max_pool2d(score, 3, 1, padding=1)
        y, x = (torch.arange(size, device=logits.device) + 0.5 for size in (h, w))
        y, x = y / h, x / w  # centres of the positions
        left, top, right, bottom = (r.clamp(min=0.5 / w).flatten(1)[..., None] for r in reach)
        own_y, own_x = y.repeat_interleave(w)[:, None], x.repeat(h)[:, None]  # (Q, 1)
        rows = (y >= own_y - top) & (y <= own_y + bottom)  # (n, Q, h)
        columns = (x >= own_x - left) & (x <= own_x + right)  # (n, Q, w)
        inside = (rows[..., None] & columns[..., None, :]).float()  # (n, Q, h, w)
        return (score * is_peak).flatten(1), inside / inside.sum((2, 3), keepdim=True)


class AudioClassifier(nn.Module):
    """(n, samples) → logits (n, classes) of what sounds."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.config = config
        self.body = resnet(config, in_channels=1, num_classes=None)
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


def box_targets(scene, side: int) -> np.ndarray:
    """What the detector learns of a scene: (5, side, side) float32.

    First 1 at the centre of a box, less by a Gaussian whose deviation is a sixth of the box; then
    the distances to the box's four edges, of the object whose Gaussian is largest there."""
    centre = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centre, centre)
    targets = np.zeros((5, side, side), np.float32)
    for x0, y0, x1, y1 in scene.boxes:
        across = np.maximum([x1 - x0, y1 - y0], 1e-6) / 6
        nearest = np.abs(x - (x0 + x1) / 2).min(), np.abs(y - (y0 + y1) / 2).min()
        far = [(np.abs(z - c) - near) / s for z, c, near, s in
               zip((x, y), ((x0 + x1) / 2, (y0 + y1) / 2), nearest, across)]
        score = np.exp(-0.5 * (far[0]**2 + far[1]**2))
        own = np.stack([score, x - x0, y - y0, x1 - x, y1 - y]).astype(np.float32)
        targets = np.where(score > targets[:1], own, targets)
    return targets


def detection_loss(output, targets):
    """Cross-entropy of the centre, and where it is over 0.3 the mean absolute error of reaches."""
    centre, is_object = targets[:, 0], targets[:, :1] > 0.3
    distance = ((output[:, 1:] - targets[:, 1:]).abs() * is_object).sum()
    return (F.binary_cross_entropy_with_logits(output[:, 0], centre)
            + distance / (4 * is_object.sum()).clamp(min=1))


def draw_images(config, count: int, objects: int):
    """Scenes of so many objects, one by one, with their images (3, H, W) uint8."""
    scenes = make_scenes(SEED, config, objects)
    for i in progress_bar(range(count), name=f"drawing images of {objects}"):
        rng = scenes.rng(ENCODER_IMAGES, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        yield scene, torch.from_numpy(scene.image).permute(2, 0, 1)


def draw_classes(config, count: int) -> tuple:
    """Images of one object (count, 3, H, W) uint8 and their classes (count,)."""
    classes, images = zip(*((int(scene.classes[0]), image)
                            for scene, image in draw_images(config, count, 1)))
    return torch.stack(images), torch.tensor(classes)


def draw_boxes(config, count: int) -> tuple:
    """Images of two objects (count, 3, H, W) uint8 and `box_targets` (count, 5, h, w)."""
    targets, images = zip(*((torch.from_numpy(box_targets(scene, config.side)), image)
                            for scene, image in draw_images(config, count, 2)))
    return torch.stack(images), torch.stack(targets)


def draw_audio(config, count: int) -> tuple:
    """Waveforms (count, samples) and the classes of their sources (count,)."""
    scenes, waveforms, classes = make_scenes(SEED, config), [], []
    for i in progress_bar(range(count), name="drawing the audio teacher's clips"):
        rng = scenes.rng(ENCODER_AUDIO, i)
        classes.append(int(rng.integers(len(scenes.names))))
        waveforms.append(torch.from_numpy(scenes.waveform(classes[-1], rng, config.crop)[0]))
    return torch.stack(waveforms), torch.tensor(classes)


NETWORKS = {  # name of its file → network, what it learns from, the loss, times --teacher-steps
    "objects": (ImageClassifier, draw_classes, F.cross_entropy, 1),
    "e_v": (Detector, draw_boxes, detection_loss, 1),
    "e_a": (AudioClassifier, draw_audio, F.cross_entropy, 2)}


def make_network(name: str, config, device="cpu"):
    """A small network of NETWORKS: read from its file, or trained and written.

    The detector starts from the classifier, as DETR from ImageNet's weights. torch's generator is
    left as it was."""
    kind, draw, loss, times = NETWORKS[name]
    classes, path = len(make_scenes(SEED, config).names), weights_path(name, config)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        net = kind(config, classes).to(device, memory_format=torch.channels_last)
    if path.is_file():
        return load_published(net, path).eval()
    if name == "e_v":
        net.body.load_state_dict(make_network("objects", config, device).body.state_dict())
    steps = times * config.teacher_steps
    inputs, targets = draw(config, min(config.teacher_clips, steps * BATCH))
    fit(net, loss, inputs.to(device), targets.to(device), steps=steps, batch_size=BATCH, lr=LR,
        seed=[SEED, BATCH_ROWS], name=f"training the small network {name}")
    write_checkpoint(path, net.state_dict())
    return net.eval()


def fingerprint(config) -> dict:
    """What tells these networks from others, as plain data."""
    settings = {name: json.loads(json.dumps(getattr(config, name))) for name in SETTINGS}
    return {**settings, "bank": make_scenes(SEED, config).bank.fingerprint}


def folder(config) -> Path:
    """Where the networks of a configuration and their hints are; all runs that can share them."""
    mark = zlib.crc32(json.dumps(fingerprint(config)).encode())
    return Path(config.out) / "avkd" / "teachers" / f"{mark:08x}"


def weights_path(name: str, config) -> Path:
    return folder(config) / f"{name}.pt"
