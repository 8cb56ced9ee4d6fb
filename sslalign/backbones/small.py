"""Pre-trained encoders of images and of audio, by which neighbours are found (section 3.3).

On files they are the paper's supervised encoders, see pretrained.py. On scenes they are two small
classifiers, trained on labelled scenes of one object that no training, validation or test draws.
A feature is the mean of an encoder's last map.
"""
import json
import zlib
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from common.benchmarks.pairs import ScenePairs, cropped_waveform, make_scenes
from common.io import load_published, write_checkpoint
from common.training import fit
from common.training.array_files import exclusive_lock

from ..config import PAPER
from .pretrained import CHANNELS, standardised
from .resnet import BasicBlock, ResNet
from .views import normalise, test_view

MODALITIES = "image", "audio"
INPUTS = replace(PAPER, channel="mean", crop=PAPER.seconds)  # of the published: ten seconds
SEED = 10**6 + 9  # of the small encoders' scenes
COUNT, BATCH, LR = 3000, 32, 5e-3  # of the small encoders' training
SETTINGS = ("image_size", "sample_rate", "seconds", "crop", "window", "hop", "blocks", "width",
            "encoder_steps", "link")  # what they depend on


def view(source, i: int, modality: str, config) -> torch.Tensor:
    """What the encoder of a modality takes of pair i, of files (3, 224, 224) or (1, 257, 1004)."""
    if modality == "image":
        return normalise(test_view(source.image(i), config.image_size)[None])[0]
    waveform = cropped_waveform(source.waveform(i), config)
    return standardised(waveform, config.sample_rate, config.window, config.hop)


class Views(Dataset):
    """`view` of the pairs from row `first` on."""

    def __init__(self, source, modality: str, config, first: int = 0):
        self.source, self.modality, self.config, self.first = source, modality, config, first

    def __len__(self):
        return len(self.source.ids) - self.first

    def __getitem__(self, i):
        return view(self.source, self.first + i, self.modality, self.config)


@torch.inference_mode()
def features(net, views: Views, batch_size: int = 64, workers: int = 0):
    """Yields the features (B, d) of all views, in their order, on the CPU."""
    device = next(net.parameters()).device
    seeds = torch.Generator()  # a loader draws from it, and torch's own stays as it was
    for x in DataLoader(views, batch_size, num_workers=workers, generator=seeds):  # (B, …, H, W)
        yield net.features(x.to(device)).mean((2, 3)).cpu()


def small_encoders(config, device="cpu") -> dict:
    """modality → the classifier of scenes, in evaluation mode: read from a file that all runs in
    config.out share, or trained with cross-entropy and written. torch's generator stays as it was.
    """
    settings = {name: getattr(config, name) for name in SETTINGS}
    bank = make_scenes(SEED, config).bank
    mark = zlib.crc32(json.dumps([settings, bank.fingerprint]).encode())
    folder = Path(config.out) / "sslalign" / "encoders" / f"{mark:08x}"
    with exclusive_lock(folder):
        if missing := [m for m in MODALITIES if not (folder / f"{m}.pt").is_file()]:
            source = ScenePairs(SEED, min(COUNT, config.encoder_steps * BATCH), config, lone=1.0)
        nets = {}
        for modality in MODALITIES:
            path = folder / f"{modality}.pt"
            with torch.random.fork_rng():
                torch.manual_seed(SEED)
                net = ResNet(BasicBlock, config.blocks, config.width, CHANNELS[modality],
                             len(bank.names)).to(device, memory_format=torch.channels_last)
            if modality in missing:
                views = Views(source, modality, config)
                inputs = torch.stack([views[i] for i in range(len(views))]).to(device)
                labels = torch.tensor([s.cls for s in source.samples], device=device)
                fit(net, F.cross_entropy, inputs, labels, steps=config.encoder_steps,
                    batch_size=BATCH, lr=LR, seed=SEED, name=f"training the {modality} encoder")
                write_checkpoint(path, net.state_dict())
            nets[modality] = load_published(net, path).eval()
    return nets
