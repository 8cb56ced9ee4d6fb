"""What TURN is evaluated on: images, audio, a phrase in the place of the audio, and gt maps.

A set has `name`, a length, and of sample i `image(i)` (H, W, 3) uint8, `logmel(i)` (L_m, c),
`phrase(i)`, `gt_map(i)` (SIZE, SIZE) in [0, 1].
"""
import torch

from common import benchmarks, metrics
from common.io import InputError, read_image
from common.training import progress_bar

from .domains import TEST, TEST_3, logmel_of, read_logmel, scenes_of

SIZE = 384  # side of the maps on which boxes are compared, as in the authors' evaluation


class SceneTestSet:
    """Held-out scenes with `objects` objects in each, the same for every seed of training."""

    def __init__(self, config, objects: int):
        scenes = scenes_of(config, TEST if objects == 2 else TEST_3, objects)
        self.config, self.name = config, f"scenes of {objects} objects"
        indices = progress_bar(range(config.held_out), name=self.name)
        self.samples = [scenes.pair(i) for i in indices]

    def __len__(self):
        return len(self.samples)

    def image(self, i):
        return self.samples[i].image

    def logmel(self, i):
        return logmel_of(torch.from_numpy(self.samples[i].waveform), self.config)

    def phrase(self, i):
        return self.samples[i].phrase

    def gt_map(self, i):
        return metrics.boxes_to_map(self.samples[i].box[None] * SIZE, SIZE)


class FileTestSet:
    """What is on disk of a benchmark; its class names are the phrases. Raises InputError."""

    def __init__(self, config, name: str, root: str):
        self.config, self.name = config, name
        if name in benchmarks.UNANNOTATED:
            raise InputError("--data", f"{name} has no boxes: it cannot be evaluated on")
        self.samples = [s for s in benchmarks.load_samples(name, root) if s.sounding]
        if not self.samples:
            raise InputError(root, f"no sample of {name} is here")

    def __len__(self):
        return len(self.samples)

    def image(self, i):
        return read_image(self.samples[i].image)

    def logmel(self, i):
        return read_logmel(self.samples[i].audio, self.config, self.samples[i].seconds)

    def phrase(self, i):
        return f"the {self.samples[i].label or 'object'}"

    def gt_map(self, i):
        return benchmarks.gt_map(self.samples[i], SIZE)


def test_sets(config, data: str, root: str) -> dict:
    """{prefix of the metrics: test set}. Raises InputError."""
    if data == "scenes":
        return {"": SceneTestSet(config, 2), "three/": SceneTestSet(config, 3)}
    return {"": FileTestSet(config, data, root)}


test_sets.__test__ = False  # not a test of pytest's
