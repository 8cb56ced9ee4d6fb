"""The batches of a training: image–audio pairs and their positives (3.3). No label is read.

symbol                here                    of sample i
v, v^aug, v^conc      v, v_aug, v_conc        its image, a distorted view, a similar sample's image
a, a^aug, a^conc      a, a_aug, a_conc        its audio, cropped elsewhere, a similar sample's audio
"""
import numpy as np
import torch
from torch.utils.data import Dataset

from common.benchmarks.pairs import cropped_waveform, easy_pairs
from common.training import check_batch_size, dist

from .augment import crop_view, distort, draw_distortion, train_view

POSITIVES = {"images": ("v", "v_aug", "v_conc"), "waveforms": ("a", "a_aug", "a_conc")}
ORDER, VIEWS = 20, 21  # streams of random numbers: [seed, ORDER, epoch], [seed, VIEWS, epoch, slot]


class TrainingBatches(Dataset):
    """Item s is this process's part of the batch of step s: a function of configuration and s.

    The first `easy_epochs` are of easy pairs. neighbours: source → those of its images and of its
    audio, (N, k) row numbers each; without, there are no semantically similar positives."""

    def __init__(self, source, config):
        check_batch_size(config.batch_size, len(source.ids), "pairs")
        self.source, self.config, self.neighbours = source, config, {}
        self.easy_epochs = config.easy if config.data == "scenes" else 0
        self.easy_source = easy_pairs(config) if self.easy_epochs else None
        self.steps_per_epoch = len(source.ids) // config.batch_size
        epochs = self.easy_epochs + config.epochs
        self.total_steps = config.steps or epochs * self.steps_per_epoch
        self.rank, self.world_size = dist.rank(), dist.world_size()  # workers cannot ask

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        """{"images": V (P, B, 3, H, W) uint8, "waveforms": A (Q, B, n)}."""
        c, (epoch, batch) = self.config, divmod(step, self.steps_per_epoch)
        source, size = self.source, c.image_size
        if epoch < self.easy_epochs:
            source, size = self.easy_source, c.image_size // 2
        neighbours = None if epoch < c.semantic_from else self.neighbours.get(source)
        if c.sampling == "anchor" and epoch >= c.semantic_from:
            neighbours = ()  # none are needed
        order = np.random.default_rng([c.seed, ORDER, epoch]).permutation(len(source.ids))
        slots = range(batch * c.batch_size, (batch + 1) * c.batch_size)[self.rank::self.world_size]
        rngs = {slot: np.random.default_rng([c.seed, VIEWS, epoch, slot]) for slot in slots}
        samples = [positives(source, int(order[slot]), size, neighbours, c, rng)
                   for slot, rng in rngs.items()]
        views = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        if c.view_image:
            views["v_aug"] = distort(views["v_aug"], views["distortion"])
        return {modality: torch.stack([views[name] for name in names if name in views])
                for modality, names in POSITIVES.items()}


def positives(source, i: int, size: int, neighbours, config, rng) -> dict:
    """The positives of sample i by name; of v_aug the crop, and what `distort` is to change in it.

    neighbours: those of images and those of audio, (N, k) row numbers each, or None. With
    --sampling anchor (Table XI) the similar sample is the view itself.
    """
    c, image, waveform = config, source.image(i), source.waveform(i)
    views = {"v": train_view(image, size, rng), "a": cropped_waveform(waveform, c)}
    if c.view_image:
        views["v_aug"] = crop_view(image, size, rng, (c.crop_scale, 1.0))
        views["distortion"] = torch.from_numpy(draw_distortion(rng, c.jitter))
    if c.view_audio:
        views["a_aug"] = cropped_waveform(waveform, c, shift=rng.uniform(-c.shift, c.shift))
    has_similar, is_anchor = neighbours is not None, c.sampling == "anchor"
    if c.semantic_image and has_similar:
        views["v_conc"] = views["v"] if is_anchor else train_view(
            source.image(draw_similar(neighbours[0][i], c, rng)), size, rng)
    if c.semantic_audio and has_similar:
        views["a_conc"] = views["a"] if is_anchor else cropped_waveform(
            source.waveform(draw_similar(neighbours[1][i], c, rng)), c)
    return views


def draw_similar(rows, config, rng) -> int:
    """One of the nearest `rows` of a sample, best first (Table XI)."""
    if config.sampling == "nearest":
        return int(rows[0])
    return int(rows[rng.integers(min(config.k, len(rows)))])
