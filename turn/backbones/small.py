"""The narrow DETR of the embedded default, which is first trained here to detect objects.

It stands where DETR-R50 stands with real data. As that was trained on COCO, it is trained on scenes
that TURN does not see, from classes and boxes, without phrases or audio. The paper's DETR has
queries for that; here each token answers for its cell of the image, and the head is then dropped.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.benchmarks.pairs import make_scenes
from common.io import load_published, write_checkpoint
from common.scenes import ENCODER_IMAGES
from common.training import dist, fit, progress_bar
from common.training.array_files import exclusive_lock

from .detr import narrow_detr
from .views import BIAS, GAIN

SEED = 10**6 + 7  # of its scenes: no seed of training, validation or test
BATCH_ROWS = 11  # stream of random numbers
NUM_SCENES, BATCH, LR = 4000, 32, 2e-3  # scenes at most, scenes a step, Adam's rate
COVER = 0.3  # the part of a cell that an object covers at least, to be the cell's
REACH_WEIGHT = 4.0  # of the boxes' loss beside that of the classes
SETTINGS = "image_size", "backbone_width", "dim", "heads", "detr_layers", "ffn", "detr_steps"


class Detector(nn.Module):
    """A DETR and a linear layer: images (n, 3, H, W) uint8 → (n, h·w, classes + 5).

    Of each token the logits of the classes and of no object, and how far the object's box reaches
    from the middle of the cell to the left, top, right and bottom, as a share of the image."""

    def __init__(self, detr, classes: int):
        super().__init__()
        self.detr, self.head = detr, nn.Linear(detr.d, classes + 5)

    def forward(self, images):
        gain, bias = (torch.from_numpy(x).to(images.device) for x in (GAIN, BIAS))
        x = (images * gain - bias).contiguous(memory_format=torch.channels_last)
        return self.head(self.detr.encode(x)[0])


def cell_targets(scene, side: int):
    """What the cells learn of a scene, (side², 5): a class, or -1 for no object, and four reaches.

    A cell belongs to the object that covers most of it."""
    masks = torch.from_numpy(scene.masks.astype(np.float32))
    cover, k = F.adaptive_avg_pool2d(masks, side).flatten(1).max(0)  # (side²,)
    middle = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    middle, boxes = torch.stack((x, y), -1).flatten(0, 1), torch.from_numpy(scene.boxes)[k]
    classes = torch.from_numpy(scene.classes).float()[k]
    return torch.cat((torch.where(cover > COVER, classes, -1)[:, None], middle - boxes[:, :2],
                      boxes[:, 2:] - middle), 1)


def detection_loss(output, targets):
    """Cross-entropy of the cells' classes, and smooth l1 of the reaches where there is an object.

    output: (n, h·w, classes + 5), targets: (n, h·w, 5). Returns a number."""
    logits, reach = output.split((output.shape[-1] - 4, 4), -1)
    classes = targets[..., 0].long()
    is_object = classes >= 0  # (n, h·w)
    classes = classes.where(is_object, logits.shape[-1] - 1)
    distance = F.smooth_l1_loss(reach, targets[..., 1:], beta=0.1, reduction="none").mean(-1)
    distance = (distance * is_object).sum() / is_object.sum().clamp(min=1)
    return F.cross_entropy(logits.flatten(0, 1), classes.flatten()) + REACH_WEIGHT * distance


def draw_scenes(config, count: int) -> tuple:
    """Images of two objects (count, 3, H, W) uint8 and their `cell_targets` (count, h·w, 5)."""
    scenes, images, targets = make_scenes(SEED, config), [], []
    for i in progress_bar(range(count), name="drawing scenes for the DETR"):
        rng = scenes.rng(ENCODER_IMAGES, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        targets.append(cell_targets(scene, config.image_size // 16))
    return torch.stack(images), torch.stack(targets)


def make_detr(config, device="cpu"):
    """The narrow DETR of a configuration, read from its file, or trained and written there.

    The state of torch's generator is kept."""
    path, gpus = weights_path(config), [device] if torch.device(device).type == "cuda" else []
    with exclusive_lock(path.parent), torch.random.fork_rng(gpus):  # other runs may want the same
        torch.manual_seed(SEED)
        detr = narrow_detr(config.backbone_width, config.dim, config.heads, config.detr_layers,
                           config.ffn * config.dim)
        net = Detector(detr, len(make_scenes(SEED, config).names))
        net = net.to(device, memory_format=torch.channels_last)
        if path.is_file():
            return load_published(detr, path)
        images, targets = draw_scenes(config, min(NUM_SCENES, config.detr_steps * BATCH))
        fit(net, detection_loss, images.to(device), targets.to(device), steps=config.detr_steps,
            batch_size=BATCH, lr=LR, seed=[SEED, BATCH_ROWS], name="training the DETR to detect")
        write_checkpoint(path, detr.state_dict())
    return detr


def load_detr(model, config, device) -> None:
    """Load the small DETR into a Turn; with --detr-steps 0 it starts from scratch."""
    if not config.detr_steps:
        return
    detr = dist.main_process_first(lambda: make_detr(config, device))
    model.localization.detr.load_state_dict(detr.state_dict())


def weights_path(config) -> Path:
    """Where the DETR of a configuration is; all runs that could use it share it."""
    settings = {**{name: getattr(config, name) for name in SETTINGS},
                "bank": make_scenes(SEED, config).bank.fingerprint}
    fingerprint = zlib.crc32(json.dumps(settings).encode())
    return Path(config.out) / "turn" / "detr" / f"{fingerprint:08x}.pt"
