"""The batches of a training: image–audio pairs and the teachers' hints on them. No label is read.

symbol    here                      of k samples
v, a      images, waveforms         (k, 3, H, W), (k, n)
e_v, e_a  e_v, e_a                  (k, c, h, w) or, of attention, (k, h, w); (k, c)
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from common.benchmarks.pairs import cropped_waveform
from common.training import check_batch_size, dist

from .backbones.views import draw_view, enlarged, test_view, train_view

ORDER, VIEWS = 20, 21  # streams of random numbers: [seed, ORDER, epoch], [seed, VIEWS, epoch, slot]


class TrainingBatches(Dataset):
    """Item s is this process's part of the batch of step s: a function of configuration and s.

    e_v (N, c, h, w) or (N, h, w), e_a (N, c): hints, in memory or memory-mapped, or None without
    that teacher."""

    def __init__(self, source, config, e_v=None, e_a=None):
        check_batch_size(config.batch_size, len(source.ids), "pairs")
        self.source, self.config, self.e_v, self.e_a = source, config, e_v, e_a
        self.steps_per_epoch = len(source.ids) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.rank, self.world_size = dist.rank(), dist.world_size()  # workers cannot ask

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        c, (epoch, batch) = self.config, divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([c.seed, ORDER, epoch]).permutation(len(self.source.ids))
        slots = range(batch * c.batch_size, (batch + 1) * c.batch_size)[self.rank::self.world_size]
        rngs = {slot: np.random.default_rng([c.seed, VIEWS, epoch, slot]) for slot in slots}
        samples = [self.sample(int(order[slot]), rng) for slot, rng in rngs.items()]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def sample(self, i: int, rng) -> dict:
        """Sample i in the view that `rng` draws; with --augment its visual hint moves along."""
        c, image = self.config, self.source.image(i)
        crop = draw_view(c.image_size, rng) if c.augment else None
        sample = {"images": (train_view(image, c.image_size, crop) if crop else
                             test_view(image, c.image_size)),
                  "waveforms": cropped_waveform(self.source.waveform(i), c)}
        if self.e_v is not None:
            e_v = torch.from_numpy(np.array(self.e_v[i], np.float32))
            sample["e_v"] = crop_hint(e_v, c.image_size, crop) if crop else e_v
        if self.e_a is not None:
            sample["e_a"] = torch.from_numpy(np.array(self.e_a[i], np.float32))
        return sample


def crop_hint(e_v, size: int, crop: tuple[int, int, bool]) -> torch.Tensor:
    """The hint of the part of an image that `train_view` takes, of the hint of the whole image.

    e_v: (c, h, w) or (h, w). Returns the same shape, bilinear, mirrored if the view is."""
    x, y, is_mirrored = crop
    h, w = e_v.shape[-2:]
    # centres of the cells, in pixels of the square of which the view is a part
    column, row = ((torch.arange(n) + 0.5) / n * size + start for n, start in ((w, x), (h, y)))
    if is_mirrored:
        column = column.flip(0)
    grid = [2 * centre / enlarged(size) - 1 for centre in (column, row)]
    grid = torch.stack(torch.meshgrid(*grid, indexing="xy"), -1)  # (h, w, 2)
    planes = e_v.reshape(1, -1, h, w)
    crop = F.grid_sample(planes, grid[None], align_corners=False, padding_mode="border")
    return crop.view(e_v.shape)
