"""The two small encoders of the embedded default, each trained on a task of its own, on scenes of which no video is made.

They stand where ResNet-152 and VGGish stand with real data, and are classifiers as those are: of pictures and of sounds. The visual
one first learns what a picture of one object shows, from its map's mean, then which two objects are in a frame, each from the
place in its map where it is clearest: so its features know what is where, though no box is read.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.training import dist
from common.training.array_files import exclusive_lock
from common.io import atomic
from common.training import cosine_schedule, progress_bar
from common.scenes import Scenes
from common.scenes.composition import SMALLER
from common.io import load_published

from .clips import scenes_of
from .encoders import AudioEncoder, VisualEncoder
from .backbones.vggish import RATE

SEED = 10**6 + 7  # of their scenes: no seed of training, validation or test
COUNT, BATCH, LR = 10_000, 32, 5e-3
MOST = 2**28  # values that are drawn for a task, at most
RECIPE = 3  # to be raised with what a task draws or how it is learned: files of another one are not taken


def pictures(config, count: int, side: int, objects: int) -> tuple:
    """Pictures (count, 3, side, side) uint8, with objects as large in pixels as those of videos, and which classes are in
    them (count, classes) 0/1."""
    scale = SMALLER * (config.image_size / side)**2
    scenes = Scenes(SEED, side, RATE, objects=objects, folder=config.objects or None, object_scale=scale)
    images, present = [], torch.zeros(count, len(scenes.names))
    for i in progress_bar(range(count), name=f"drawing pictures of {objects}"):
        rng = scenes.rng(9, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        present[i, scene.classes] = 1
    return torch.stack(images), present


def sounds(config, count: int) -> tuple:
    """Segments of sound (count, samples) and their classes (count, classes) 0/1."""
    scenes, segments = scenes_of(SEED, config), []
    present = torch.zeros(count, len(scenes.names))
    for i in progress_bar(range(count), name="drawing sounds"):
        rng = scenes.rng(10, i)
        cls = int(rng.integers(len(scenes.names)))
        segments.append(torch.from_numpy(scenes.waveform(cls, rng, config.samples / RATE)[0]))
        present[i, cls] = 1
    return torch.stack(segments), present


def which(maps, present):
    """One of the classes, from the mean of each one's map: (n, classes, h, w), (n, classes) → cross-entropy."""
    return F.cross_entropy(maps.mean((2, 3)), present)


def any_of(maps, present):
    """Each class on its own, from the maximum of its map, averaged over 2 × 2: it need not be seen everywhere, but in more than
    one position, which on its own often was one beside the object's edge."""
    return F.binary_cross_entropy_with_logits(F.avg_pool2d(maps, 2, 1).amax((2, 3)), present)


# For each encoder its tasks in turn: what is drawn, the loss, steps for each of config.encoder_steps.
TASKS = {"visual": ((lambda c, count: pictures(c, count, c.image_size // 2, 1), which, 1.0),
                    (lambda c, count: pictures(c, count, c.image_size, 2), any_of, 0.5)),
         "auditory": ((sounds, which, 0.15),)}
KINDS = {"visual": VisualEncoder, "auditory": AudioEncoder}


def encoder(name: str, config, device="cpu"):
    """VisualEncoder or AudioEncoder, read from its file, or trained and written there. torch's generator is left as it was.

    The plainest supervised training: Adam and a cosine for each task, whose last layer is then forgotten.
    """
    path, gpus = folder(config) / f"{name}.pt", [device] if torch.device(device).type == "cuda" else []
    with exclusive_lock(path.parent), torch.random.fork_rng(gpus):  # other trainings may want the same
        torch.manual_seed(SEED)
        net = KINDS[name](config).to(device, memory_format=torch.channels_last)
        if path.is_file():
            return load_published(net, path)
        for draw, loss, share in TASKS[name]:
            learn(net, draw, loss, max(round(share * config.encoder_steps), 1), config, name)
        with atomic(path) as file:
            torch.save(net.state_dict(), file)
    return net


def learn(net, draw, loss, steps: int, config, name: str) -> None:
    device = next(net.parameters()).device
    size = max(3 * config.image_size**2, config.samples)
    inputs, present = (x.to(device) for x in draw(config, max(BATCH, min(COUNT, steps * BATCH, MOST // size))))
    head = nn.Conv2d(net.channels, present.shape[1], 1).to(device)
    nn.init.constant_(head.bias, -2)  # most classes are not there
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], LR, fused=True)
    for step in progress_bar(range(steps), name=f"training the {name} encoder"):
        rows = torch.from_numpy(np.random.default_rng([SEED, 11, step]).integers(len(inputs), size=BATCH)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = LR * cosine_schedule(step, steps, max(steps // 20, 1))
        value = loss(head(net(inputs[rows])), present[rows])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    if not torch.isfinite(value):
        raise FloatingPointError(f"the {name} encoder's loss is {value.item()} after {steps} steps")


def begin(model, config, device) -> None:
    """Give a Stmnet the small encoders in place of those for which no published weights are named. The main process makes
    them where they are not there yet, the others read them."""
    wanted = [name for name, weights in (("visual", config.vision_weights), ("auditory", config.audio_weights)) if not weights]
    if dist.rank() == 0:
        for name in wanted:
            encoder(name, config, device)
    dist.gather_objects(None)  # the files are there
    for name in wanted:
        getattr(model, name).load_state_dict(encoder(name, config, device).state_dict())


def folder(config) -> Path:
    """Where the small encoders of a configuration are: all runs that could use them share it."""
    names = ("image_size", "segment_seconds", "blocks", "width", "bottleneck", "last_stride", "audio", "audio_width", "encoder_steps")
    made_of = {**{name: json.loads(json.dumps(getattr(config, name))) for name in names}, "recipe": RECIPE,
               "bank": scenes_of(SEED, config).bank.fingerprint}
    return Path(config.out) / "stmnet" / "encoders" / f"{zlib.crc32(json.dumps(made_of).encode()):08x}"
