"""Batches of clips. `Steps` is all that the training loop sees; `clip` makes one of them, for the validation too."""
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.training import dist
from common.io import InputError

from .backbones.views import draw_view, test_view, train_view


def clip(source, i: int, config, rng) -> dict:
    """A random second of video i → {"frames" (T, 3, S, S), "segments" (T, samples), "labels" (T,)}; rng draws it.

    With config.augment all frames are cut at one place (4.2: resized by 1.1, cropped), uint8; the paper mirrors nothing.
    """
    frames, segments, labels = source.draw(i, rng)
    if config.augment:
        drawn = (*draw_view(config.image_size, rng)[:2], False)
        views = [train_view(frame, config.image_size, drawn) for frame in frames]
    else:
        views = [test_view(frame, config.image_size) for frame in frames]
    return {"frames": torch.stack(views), "segments": segments, "labels": torch.as_tensor(labels)}


def stack(clips: list) -> dict:
    return {name: torch.stack([c[name] for c in clips]) for name in clips[0]}


class Steps(Dataset):
    """steps[s] is this process's part of the batch of step s: a function of the configuration and s."""

    def __init__(self, source, config):
        self.source, self.config = source, config
        if not config.batch_size <= len(source.ids):
            raise InputError("--batch-size", f"{config.batch_size} clips a step are more than the {len(source.ids)} videos")
        self.per_epoch = len(source.ids) // config.batch_size
        self.total = config.steps or config.epochs * self.per_epoch
        self.rank, self.world = dist.rank(), dist.world_size()  # workers that are not forks do not know
        if config.batch_size < self.world:
            raise InputError("--batch-size", f"{config.batch_size} clips are too few for {self.world} processes")

    def __len__(self):
        return self.total

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.per_epoch)
        c = self.config
        order = np.random.default_rng([c.seed, 20, epoch]).permutation(len(self.source.ids))
        own = range(batch * c.batch_size + self.rank, (batch + 1) * c.batch_size, self.world)
        return stack([clip(self.source, int(order[slot]), c, np.random.default_rng([c.seed, 21, epoch, slot])) for slot in own])

    def loader(self, start: int, end: int):
        """Batches of the steps from `start` to `end`, read by config.workers processes. It draws nothing from torch's generator."""
        return DataLoader(self, None, sampler=range(start, end), num_workers=self.config.workers, generator=torch.Generator(),
                          pin_memory=torch.cuda.is_available(), prefetch_factor=4 if self.config.workers else None)
