"""Features of pre-trained encoders, in which neighbours are looked for (3.3), in files that grow by blocks (common/arrays.py).

The supervised encoders of the paper are ResNet-18s: one of ImageNet for pictures, one of VGGSound for sounds (Chen et al.,
"VGGSound", ICASSP 2020: ten seconds as a spectrogram of 257 × 1004, standardised). A feature is the mean of the last map.
"""
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.training.array_files import fill_array
from common.io import read_audio, read_image
from common.io import load_published

from common.io import crop_audio
from .backbones.frontend import log_spectrogram
from .backbones.resnet import resnet18
from .backbones.views import normalise, test_view

SIZE = 224  # of the picture
RATE, SECONDS = 16000, 10.0  # of the sound
CLASSES = {"image": 1000, "audio": 309}  # ImageNet, VGGSound


class Inputs(Dataset):
    """What the encoder of `modality`, "image" or "audio", takes of samples: (3, 224, 224) or (1, 257, 1004)."""

    def __init__(self, samples, modality: str):
        self.samples, self.modality = samples, modality

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        if self.modality == "image":
            return test_view(read_image(self.samples[i].image), SIZE)
        waveform, _ = read_audio(self.samples[i].audio, RATE, seconds=SECONDS)
        return standardised(crop_audio(waveform, RATE, clip=SECONDS, crop=SECONDS))


def standardised(waveform: torch.Tensor) -> torch.Tensor:
    """(160 000,) samples → (1, 257, 1004): log(x + 1e-7) with mean 0 and deviation 1, as VGGSound's classifier was trained."""
    x = 12 * log_spectrogram(waveform, RATE, window=512, hop=159).double()  # ours is divided by 12
    x = (x - x.mean()) / (x.std(correction=0) + 1e-9)  # in float64, or silence would be what is rounded off
    return x.float().reshape(1, *x.shape[-2:])


def encoder(modality: str, weights, key=None, prefix="", device="cpu"):
    """ResNet-18 with the published weights in a file, in evaluation mode. Raises InputError."""
    net = resnet18(CLASSES[modality], 3 if modality == "image" else 1)
    return load_published(net, weights, key or None, prefix).eval().to(device)


def extract(samples, modality: str, net, path, made_of: dict, device="cpu", batch_size=64, workers=0) -> np.memmap:
    """Features (N, 512) float16 of all samples (with `image` and `audio`, paths), in their order, in the file `path`.

    made_of: as in common.arrays.fill. Raises InputError for a picture or sound that cannot be read.
    """
    @torch.inference_mode()
    def blocks(first):
        loader = DataLoader(Inputs(samples[first:], modality), batch_size, num_workers=workers)
        for x in loader:  # (B, channels, H, W)
            x = x.to(device)
            maps = net.features(normalise(x) if modality == "image" else x)  # (B, 512, H/32, W/32)
            yield maps.mean((2, 3)).half().cpu().numpy()

    return fill_array(path, (len(samples), net.channels), np.float16, made_of, blocks, f"{modality} features")
