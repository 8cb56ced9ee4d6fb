"""What TURN is evaluated on: embedded scenes, or what is on disk of a benchmark."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common import benchmarks, metrics
from common.benchmarks.pairs import TEST, make_scenes
from common.io import InputError, read_image
from common.training import progress_bar

from .backbones.frontend import logmel_of, read_logmel

SIZE = 384  # side of the maps on which boxes are compared, as in the authors' evaluation


@dataclass(frozen=True)
class BoxTestSet:
    """Samples, and functions of a sample."""
    name: str
    samples: list
    image: Callable  # → (H, W, 3) uint8
    logmel: Callable  # → (L_m, c)
    phrase: Callable  # → str, the text in the place of the audio
    gt_map: Callable  # → (SIZE, SIZE) in [0, 1]


def scene_test_set(config, seed: int, objects: int) -> BoxTestSet:
    """Held-out scenes with `objects` objects in each, the same for every seed of training."""
    scenes, name = make_scenes(seed, config, objects), f"{objects} objects"
    samples = [scenes.pair(i) for i in progress_bar(range(config.held_out), name=name)]
    return BoxTestSet(name, samples, lambda s: s.image,
                   lambda s: logmel_of(torch.from_numpy(s.waveform), config), lambda s: s.phrase,
                   lambda s: metrics.boxes_to_map(s.box[None] * SIZE, SIZE))


def file_test_set(config, name: str, root: str) -> BoxTestSet:
    """What is on disk of a benchmark; its class names are the phrases. Raises InputError."""
    if name in benchmarks.UNANNOTATED:
        raise InputError("--data", f"{name} has no boxes: it cannot be evaluated on")
    samples = [s for s in benchmarks.load_samples(name, root) if s.sounding]
    if not samples:
        raise InputError(root, f"no sample of {name} is here")
    return BoxTestSet(name, samples, lambda s: read_image(s.image),
                   lambda s: read_logmel(s.audio, config, s.seconds),
                   lambda s: f"the {s.label or 'object'}", lambda s: benchmarks.gt_map(s, SIZE))


def load_test_sets(config, data: str = "scenes", root: str = "") -> dict:
    """{prefix of the metrics: test set}. Raises InputError."""
    if data == "scenes":
        return {"": scene_test_set(config, TEST, 2), "three/": scene_test_set(config, TEST + 1, 3)}
    return {"": file_test_set(config, data, root)}
