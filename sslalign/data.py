"""What sslalign learns from: pairs of a picture and a sound, and their positives (section 3.3).

`TrainingBatches` is all that the training loop sees.
"""
import numpy as np
import torch
from torch.utils.data import Dataset

from common.training import dist
from common.io import InputError
from common.training import progress_bar
from common.scenes import Scenes

from .augment import colours, crop_view, draw_colours
from common.benchmarks.pairs import ScenePairs, cropped_waveform
from .backbones.views import draw_view, train_view


class EasyPairs(ScenePairs):
    """Pairs to begin with: config.scenes scenes of one object in pictures of half the side, where it covers twice the share. They
    are of the training's seed too, with the indices after those of the ordinary scenes."""

    def __init__(self, config):
        scenes = Scenes(config.seed, config.image_size // 2, config.sample_rate, config.seconds or config.crop, 1,
                        config.objects or None, object_scale=2.0)
        self.samples = [scenes.pair(config.scenes + i) for i in progress_bar(range(config.scenes), name="drawing easy scenes")]
        self.ids = [f"easy-{scenes.bank.fingerprint:08x}-{config.seed}-{i}" for i in range(config.scenes)]


class TrainingBatches(Dataset):
    """steps[s] is this process's part of the batch of step s: a function of the configuration, the neighbours and s.

    neighbours: (image, audio), each (N, k), or None: without them there are no semantically similar positives.
    Of scenes, the first `easy` epochs are over as many easy pairs, which have no neighbours.
    """

    def __init__(self, source, config):
        self.source, self.config, self.neighbours = source, config, None
        if not config.batch_size <= len(source.ids):
            raise InputError("--batch-size", f"{config.batch_size} anchors a step are more than the {len(source.ids)} pairs")
        self.steps_per_epoch = len(source.ids) // config.batch_size
        self.easy = config.easy if config.data == "scenes" else 0
        self.total_steps = config.steps or (self.easy + config.epochs) * self.steps_per_epoch
        self.rank, self.world = dist.rank(), dist.world_size()  # workers that are not forks do not know
        if config.batch_size < self.world:
            raise InputError("--batch-size", f"{config.batch_size} anchors are too few for {self.world} processes")
        self.easy_source = EasyPairs(config) if self.easy else None

    def __len__(self):
        return self.total_steps

    def similar(self, i: int, which: int, rng) -> int:
        """A semantically similar sample of i: one of its k nearest in modality `which` (0: image, 1: audio)."""
        found = self.neighbours[which][i]
        return int(found[0 if self.config.sampling == "nearest" else rng.integers(min(self.config.k, len(found)))])

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.steps_per_epoch)
        c, source, size, neighbours = self.config, self.source, self.config.image_size, self.neighbours
        if epoch < self.easy:
            source, size, neighbours = self.easy_source, size // 2, None
        order = np.random.default_rng([c.seed, 20, epoch]).permutation(len(source.ids))
        views = {"v": [], "v_aug": [], "v_conc": [], "a": [], "a_aug": [], "a_conc": []}
        drawn = []
        for slot in range(batch * c.batch_size + self.rank, (batch + 1) * c.batch_size, self.world):
            i, rng = int(order[slot]), np.random.default_rng([c.seed, 21, epoch, slot])
            image, sound = source.image(i), source.waveform(i)
            views["v"].append(train_view(image, size, draw_view(size, rng)))
            views["a"].append(cropped_waveform(sound, c))
            if c.view_image:
                views["v_aug"].append(crop_view(image, size, rng, (c.crop_scale, 1.0)))
                drawn.append(draw_colours(rng, c.jitter))
            if c.view_audio:
                views["a_aug"].append(cropped_waveform(sound, c, shift=rng.uniform(-c.shift, c.shift)))
            if c.semantic_image and neighbours is not None:
                views["v_conc"].append(train_view(source.image(self.similar(i, 0, rng)), size, draw_view(size, rng)))
            if c.semantic_audio and neighbours is not None:
                views["a_conc"].append(cropped_waveform(source.waveform(self.similar(i, 1, rng)), c))
        stacked = {name: torch.stack(parts) for name, parts in views.items() if parts}
        if c.view_image:
            stacked["v_aug"] = colours(stacked["v_aug"], np.stack(drawn))
        return {"images": torch.stack([x for name, x in stacked.items() if name[0] == "v"]),  # V: (P, B, 3, H, W)
                "waveforms": torch.stack([x for name, x in stacked.items() if name[0] == "a"])}  # A: (Q, B, n)
