"""What avkd learns from: pairs of a picture and a sound, and the teachers' hints on them. `TrainingBatches` is all that the training loop
sees; no label is ever read."""
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from common.training import dist
from common.io import InputError

from common.benchmarks.pairs import cropped_waveform
from .backbones.views import draw_view, test_view, train_view


def moved(e_v: torch.Tensor, size: int, drawn: tuple[int, int, bool]) -> torch.Tensor:
    """A hint (c, h, w) of a whole picture → (c, h, w) of the part that `views.train_view` takes of it: bilinear, mirrored or not."""
    x, y, mirrored = drawn
    large = round(1.1 * size)
    h, w = e_v.shape[1:]
    column, row = ((torch.arange(n) + 0.5) / n * size + start for n, start in ((w, x), (h, y)))  # pixels of the large square
    if mirrored:
        column = column.flip(0)
    grid = torch.stack(torch.meshgrid(2 * column / large - 1, 2 * row / large - 1, indexing="xy"), -1)  # (h, w, 2)
    return F.grid_sample(e_v[None], grid[None], align_corners=False, padding_mode="border")[0]


class TrainingBatches(Dataset):
    """steps[s] is this process's part of the batch of step s: a function of the configuration, the hints and s.

    hints: e_v (N, c, h, w) and e_a (N, c), in memory or memory-mapped, or None without that teacher.
    """

    def __init__(self, source, config, e_v=None, e_a=None):
        self.source, self.config, self.e_v, self.e_a = source, config, e_v, e_a
        if not config.batch_size <= len(source.ids):
            raise InputError("--batch-size", f"{config.batch_size} pairs a step are more than the {len(source.ids)} pairs")
        self.steps_per_epoch = len(source.ids) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.rank, self.world = dist.rank(), dist.world_size()  # workers that are not forks do not know
        if config.batch_size < self.world:
            raise InputError("--batch-size", f"{config.batch_size} pairs are too few for {self.world} processes")

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.steps_per_epoch)
        c, source = self.config, self.source
        order = np.random.default_rng([c.seed, 20, epoch]).permutation(len(source.ids))
        parts = {"images": [], "waveforms": [], "e_v": [], "e_a": []}
        for slot in range(batch * c.batch_size + self.rank, (batch + 1) * c.batch_size, self.world):
            i = int(order[slot])
            drawn = draw_view(c.image_size, np.random.default_rng([c.seed, 21, epoch, slot])) if c.augment else None
            parts["images"].append(train_view(source.image(i), c.image_size, drawn) if drawn else test_view(source.image(i), c.image_size))
            parts["waveforms"].append(cropped_waveform(source.waveform(i), c))
            if self.e_v is not None:
                e_v = torch.from_numpy(np.array(self.e_v[i], np.float32))
                parts["e_v"].append(moved(e_v, c.image_size, drawn) if drawn else e_v)
            if self.e_a is not None:
                parts["e_a"].append(torch.from_numpy(np.array(self.e_a[i], np.float32)))
        return {name: torch.stack(part) for name, part in parts.items() if part}
