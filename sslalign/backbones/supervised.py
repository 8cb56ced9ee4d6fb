"""Features of pre-trained encoders, by which neighbours are found (3.3), in files.

The supervised encoders of the paper are ResNet-18s: one of ImageNet for images, one of VGGSound for
audio (Chen et al., "VGGSound", ICASSP 2020, https://arxiv.org/abs/2004.14368: ten seconds as a
standardised log spectrogram of 257 × 1004). A feature is the mean of the last map.
"""
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.io import InputError, crop_audio, load_published, read_audio, read_image
from common.training.array_files import file_crc32, fill_array, open_array, write_ids

from .frontend import log_spectrogram
from .resnet import resnet18
from .views import normalise, test_view

MODALITIES = "image", "audio"
SIZE = 224  # of images
RATE, SECONDS = 16000, 10.0  # of audio
CLASSES = {"image": 1000, "audio": 309}  # ImageNet, VGGSound


class Inputs(Dataset):
    """What the encoder of a modality takes of samples: (3, 224, 224) or (1, 257, 1004)."""

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
    """(160 000,) → (1, 257, 1004): the log spectrogram x as VGGSound's classifier takes it.

        (x − mean(x)) / (std(x) + 1e-9)

    In float64: of silence, float32 would leave rounding errors.
    """
    x = 12 * log_spectrogram(waveform, RATE, window=512, hop=159).double()  # ours is divided by 12
    x = (x - x.mean()) / (x.std(correction=0) + 1e-9)
    return x.float().reshape(1, *x.shape[-2:])


def encoder(modality: str, weights, key=None, prefix="", device="cpu"):
    """ResNet-18 with the published weights in a file, in evaluation mode. Raises InputError."""
    net = resnet18(CLASSES[modality], 3 if modality == "image" else 1)
    return load_published(net, weights, key or None, prefix).eval().to(device)


def extract(samples, modality: str, net, path, fingerprint: dict, device="cpu", batch_size=64,
            workers=0) -> np.memmap:
    """Features (N, 512) float16 of all samples, in their order, into the file `path`.

    fingerprint: as in array_files.fill_array. Raises InputError if a file cannot be read.
    """
    @torch.inference_mode()
    def blocks(first):
        loader = DataLoader(Inputs(samples[first:], modality), batch_size, num_workers=workers)
        for x in loader:  # (B, channels, H, W)
            x = x.to(device)
            maps = net.features(normalise(x) if modality == "image" else x)  # (B, 512, H/32, W/32)
            yield maps.mean((2, 3)).half().cpu().numpy()

    return fill_array(path, (len(samples), net.channels), np.float16, fingerprint, blocks,
                      f"{modality} features")


def extract_supervised(folder, samples, weights: dict, device="cpu", batch_size=64, workers=0):
    """Write ids.txt, and the features of each modality that has weights.

    weights: modality → (file, key, prefix). Raises InputError.
    """
    nets = {modality: encoder(modality, *source, device)  # before anything is written
            for modality, source in weights.items() if source[0]}
    write_ids(folder / "ids.txt", [sample.id for sample in samples])
    for modality, net in nets.items():
        fingerprint = {"ids": file_crc32(folder / "ids.txt"),
                       "weights": file_crc32(weights[modality][0])}
        extract(samples, modality, net, folder / f"{modality}_features.npy", fingerprint, device,
                batch_size, workers)


def open_features(path, count: int) -> np.memmap:
    """Features of `count` samples, of these or of your own encoders. Raises InputError."""
    array = open_array(path, "put the features of your encoders there, or name --data, --root "
                       "and weights")
    is_float = array.dtype in (np.float16, np.float32)
    if array.ndim != 2 or len(array) != count or not array.size or not is_float:
        raise InputError(path, f"{array.dtype} {array.shape}: not (N, d) float16 or float32 with "
                         f"N = {count}, the ids in ids.txt")
    return array
