"""The two small encoders of the embedded default, trained here on scenes made for them.

They stand where ResNet-152 and VGGish stand with real data. As those, they are first trained to
classify, images and audio, and then frozen. The visual encoder has two tasks. First: which object
is in an image of one, from the mean of the map. Then: which two objects are in a frame, each from
the place of the map where it is clearest. So its map has what is where, though no box is read.
"""
import json
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published, write_checkpoint
from common.scenes import ENCODER_AUDIO, ENCODER_IMAGES, VIDEO_SCALE, Scenes
from common.training import dist, fit, progress_bar
from common.training.array_files import exclusive_lock

from .encoders import AudioEncoder, VisualEncoder
from .vggish import RATE

SEED = 10**6 + 7  # of their scenes: no seed of training, validation or test
BATCH_ROWS = 11  # stream of random numbers
NUM_SAMPLES, BATCH, LR = 10_000, 32, 5e-3  # of a task: samples at most, a step, Adam's rate
MAX_VALUES = 2**28  # pixels or audio samples that are drawn for a task
RECIPE = 3  # to be raised if a task or its training changes: encoders of another one are not read
SETTINGS = ("image_size", "segment_seconds", "blocks", "width", "bottleneck", "last_stride",
            "audio", "audio_width", "encoder_steps")  # of the encoders


def draw_images(config, count: int, side: int, objects: int) -> tuple:
    """Images (count, 3, side, side) uint8, is_present (count, classes) 0/1.

    Objects are as large in pixels as those of videos."""
    scale = VIDEO_SCALE * (config.image_size / side)**2
    scenes = Scenes(SEED, side, RATE, objects=objects, folder=config.objects or None,
                    object_scale=scale)
    images, is_present = [], torch.zeros(count, len(scenes.names))
    for i in progress_bar(range(count), name=f"drawing images of {objects}"):
        rng = scenes.rng(ENCODER_IMAGES, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        is_present[i, scene.classes] = 1
    return torch.stack(images), is_present


def draw_audio(config, count: int) -> tuple:
    """Audio segments (count, samples), is_present (count, classes) 0/1, one class each."""
    scenes = Scenes(SEED, config.image_size, RATE, folder=config.objects or None)
    segments, is_present = [], torch.zeros(count, len(scenes.names))
    for i in progress_bar(range(count), name="drawing audio"):
        rng = scenes.rng(ENCODER_AUDIO, i)
        cls = int(rng.integers(len(scenes.names)))
        waveform, _ = scenes.waveform(cls, rng, config.samples / RATE)
        segments.append(torch.from_numpy(waveform))
        is_present[i, cls] = 1
    return torch.stack(segments), is_present


def mean_map_loss(maps, is_present):
    """Cross-entropy of the mean of each class's map: (n, classes, h, w), (n, classes)."""
    return F.cross_entropy(maps.mean((2, 3)), is_present)


def max_map_loss(maps, is_present):
    """Binary cross-entropy of each class, from the maximum of its map.

    The map is first averaged over 2 × 2 positions: a single one often lies beside the object."""
    return F.binary_cross_entropy_with_logits(F.avg_pool2d(maps, 2, 1).amax((2, 3)), is_present)


# The tasks of each encoder: what is drawn, the loss, the share of config.encoder_steps.
TASKS = {
    "visual": ((lambda c, count: draw_images(c, count, c.image_size // 2, 1), mean_map_loss, 1.0),
               (lambda c, count: draw_images(c, count, c.image_size, 2), max_map_loss, 0.5)),
    "audio": ((draw_audio, mean_map_loss, 0.15),)}
ENCODERS = {"visual": VisualEncoder, "audio": AudioEncoder}


def make_encoder(name: str, config, device="cpu"):
    """The encoder, read from its file, or trained and written there.

    Each task is trained with Adam and a cosine schedule; its last layer is then dropped. The state
    of torch's generator is kept."""
    path, gpus = encoders_folder(config) / f"{name}.pt", []
    if torch.device(device).type == "cuda":
        gpus = [device]
    with exclusive_lock(path.parent), torch.random.fork_rng(gpus):  # other runs may want the same
        torch.manual_seed(SEED)
        encoder = ENCODERS[name](config).to(device, memory_format=torch.channels_last)
        if path.is_file():
            return load_published(encoder, path)
        for draw, loss, share in TASKS[name]:
            steps = max(round(share * config.encoder_steps), 1)
            train_task(encoder, draw, loss, steps, config, name)
        write_checkpoint(path, encoder.state_dict())
    return encoder


def train_task(encoder, draw, loss, steps: int, config, name: str) -> None:
    device = next(encoder.parameters()).device
    most = MAX_VALUES // max(3 * config.image_size**2, config.samples)
    count = max(BATCH, min(NUM_SAMPLES, steps * BATCH, most))
    inputs, is_present = (x.to(device) for x in draw(config, count))
    head = nn.Conv2d(encoder.channels, is_present.shape[1], 1).to(device)
    nn.init.constant_(head.bias, -2)  # most classes are absent
    fit(nn.Sequential(encoder, head), loss, inputs, is_present, steps=steps, batch_size=BATCH,
        lr=LR, seed=[SEED, BATCH_ROWS], name=f"training the {name} encoder")


def load_encoders(model, config, device) -> None:
    """Load the small encoders into a Stmnet, where no published weights are named."""
    for name, weights in (("visual", config.vision_weights), ("audio", config.audio_weights)):
        if not weights:
            encoder = dist.main_process_first(lambda name=name: make_encoder(name, config, device))
            getattr(model, f"{name}_encoder").load_state_dict(encoder.state_dict())


def encoders_folder(config) -> Path:
    """Where the small encoders of a configuration are; all runs that could use them share it."""
    settings = {**{name: json.loads(json.dumps(getattr(config, name))) for name in SETTINGS},
                "recipe": RECIPE,
                "bank": Scenes(SEED, folder=config.objects or None).bank.fingerprint}
    fingerprint = zlib.crc32(json.dumps(settings).encode())
    return Path(config.out) / "stmnet" / "encoders" / f"{fingerprint:08x}"
