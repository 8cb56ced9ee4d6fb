"""Semantically similar samples by the model itself, for the preset tiny (--neighbours own).

The paper takes pre-trained encoders for that (3.3, neighbors.py). Here the neighbours of all
samples are found anew before each epoch, by the features that the model then gives.
"""
import torch
from torch import nn

from common.benchmarks.pairs import cropped_waveform
from common.training import dist, progress_bar, step_loader

from . import neighbors
from .backbones.views import test_view
from .model import AudioFeatures, ImageFeatures

BATCH = 64


@torch.no_grad()
def encode_pairs(model, source, config, device, name: str) -> tuple[ImageFeatures, AudioFeatures]:
    """Features (N, …) of all pairs of a source, not augmented, on the CPU, in all processes."""
    model.eval()
    rows, features = list(dist.split(len(source.ids))), [[] for _ in range(5)]
    for start in progress_bar(range(0, len(rows), BATCH), name=name):
        batch = rows[start:start + BATCH]
        images = torch.stack([test_view(source.image(i), config.image_size) for i in batch])
        waveforms = torch.stack([cropped_waveform(source.waveform(i), config) for i in batch])
        image = model.image_features(model.encode_image(images.to(device)))
        audio = model.audio_features(model.encode_audio(waveforms.to(device)))
        for part, x in zip(features, (*image, *audio)):
            part.append(x.float().cpu())
    features = [dist.merge_rows(part, len(source.ids)) for part in features]
    return ImageFeatures(*features[:3]), AudioFeatures(*features[3:])


class MinedNeighbours(nn.Module):
    """The k nearest of each of `count` samples in either modality, (count, k) row numbers.

    They are buffers, so that a checkpoint has them and a continued run the same neighbours.
    """

    def __init__(self, count: int, k: int):
        super().__init__()
        for modality in neighbors.MODALITIES:
            self.register_buffer(modality, torch.zeros(count, k, dtype=torch.int32))

    def mine(self, model, source, config, device) -> None:
        """Find them by the projected features, or by avg(v) and a if nothing trains those.

        The former hold more of the meaning (4.4). With --sampling anchor each sample is its own
        neighbour (Table XI).
        """
        if config.sampling == "anchor":
            for rows in (self.image, self.audio):
                rows.copy_(torch.arange(len(rows))[:, None])
            return
        image, audio = encode_pairs(model, source, config, device, "mining neighbours")
        is_trained = config.align or config.intra
        v, a = (image.projected, audio.projected) if is_trained else (image.pooled, audio.a)
        for rows, features in ((self.image, v), (self.audio, a)):
            rows.copy_(neighbors.nearest(features, rows.shape[1]))


def mined_batches(batches, run, model, mined):
    """The batches of all steps from run.step on; before each epoch neighbours are mined anew.

    Not before the easy epochs and --mine-from more are over: what an untrained network finds
    similar means nothing.
    """
    first_epoch = batches.easy_epochs + run.config.mine_from
    if first_epoch * batches.steps_per_epoch >= batches.total_steps and run.is_main:
        print("no semantic positives: the training ends before --easy and --mine-from, "
              f"{first_epoch} epochs, are over")
    while run.step < batches.total_steps:
        epoch, step = divmod(run.step, batches.steps_per_epoch)
        if epoch >= first_epoch:
            if step == 0:  # else the checkpoint of a continued run has them
                mined.mine(model, batches.source, run.config, run.device)
            batches.neighbours = mined.image.cpu().numpy(), mined.audio.cpu().numpy()
        end = min((epoch + 1) * batches.steps_per_epoch, batches.total_steps)
        yield from step_loader(batches, run.step, end, run.config.workers)
