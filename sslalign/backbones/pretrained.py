"""The supervised encoders of section 3.3: published ResNet-18s of ImageNet and of VGGSound.

VGGSound's (Chen et al. 2020, https://arxiv.org/abs/2004.14368) takes ten seconds as a standardised
log spectrogram, and pools by the mean.
"""
import torch

from common.io import load_published

from .frontend import log_spectrogram
from .resnet import resnet18

CHANNELS = {"image": 3, "audio": 1}
CLASSES = {"image": 1000, "audio": 309}  # ImageNet, VGGSound


def published_encoder(modality: str, path, key=None, prefix="", device="cpu"):
    """ResNet-18 with the published weights in a file, in evaluation mode. Raises InputError."""
    net = resnet18(CLASSES[modality], CHANNELS[modality])
    return load_published(net, path, key or None, prefix).eval().to(device)


def standardised(waveform: torch.Tensor, sample_rate=16000, window=512, hop=159) -> torch.Tensor:
    """(n,) → (1, F, T): the log spectrogram x as VGGSound's classifier takes it, of ten seconds
    (160 000,) → (1, 257, 1004).

        (x − mean(x)) / (std(x) + 1e-9)

    In float64: of silence, float32 would leave rounding errors."""
    x = log_spectrogram(waveform, sample_rate, window=window, hop=hop)
    x = 12 * x.double()  # ours is divided by 12
    x = (x - x.mean()) / (x.std(correction=0) + 1e-9)
    return x.float()[None]
