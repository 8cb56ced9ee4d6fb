"""What TURN is evaluated on: embedded scenes, or what is on disk of a benchmark."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common import benchmarks, metrics
from common.benchmarks.pairs import TEST, make_scenes
from common.io import InputError, read_image
from common.training import progress_bar

from .backbones.frontend import read_clip

SIZE = 384  # side of the maps on which boxes are compared, as in the authors' evaluation


@dataclass(frozen=True)
class BoxTestSet:
    """Samples with an id each, and functions of a sample."""
    name: str
    samples: list
    ids: list
    image: Callable  # → (H, W, 3) uint8
    waveform: Callable  # → (n,)
    phrase: Callable | None  # → str, the text in the place of the audio, if samples have a name
    gt_map: Callable  # → (SIZE, SIZE) in [0, 1]


def scene_test_set(config, seed: int, objects: int) -> BoxTestSet:
    """Held-out scenes with `objects` objects in each, the same for every seed of training."""
    scenes, name = make_scenes(seed, config, objects), f"{objects} objects"
    samples = [scenes.pair(i) for i in progress_bar(range(config.held_out), name=name)]
    return BoxTestSet(name, samples, list(range(len(samples))), lambda s: s.image,
                      lambda s: torch.from_numpy(s.waveform),
                      lambda s: s.phrase, lambda s: metrics.boxes_to_map(s.box[None] * SIZE, SIZE))


def file_test_set(config, name: str, root: str, ids: str = "") -> BoxTestSet:
    """What is on disk of a benchmark, and has a box; ids: a file with others than the published
    list. Class names are the phrases, MUSIC's numbers of classes are not. Raises InputError."""
    if name in benchmarks.UNANNOTATED:
        raise InputError(name, "has no boxes: it cannot be evaluated on")
    samples = [s for s in benchmarks.load_samples(name, root, ids or None) if len(s.boxes)]
    if not samples:
        raise InputError(root, f"no sample of {name} with a box is here")
    has_names = all(any(map(str.isalpha, s.label or "")) for s in samples)
    return BoxTestSet(name, samples, [s.id for s in samples], lambda s: read_image(s.image),
                      lambda s: read_clip(s.audio, config, s.seconds),
                      (lambda s: f"the {s.label}") if has_names else None,
                      lambda s: benchmarks.gt_map(s, SIZE))


def load_test_sets(config, names, roots=(), lists=()) -> dict:
    """{prefix of the metrics: test set} of "scenes" or of benchmarks, of which the first has no
    prefix and the others have their names; lists: see file_test_set. Raises InputError."""
    if "scenes" in names:
        return {"": scene_test_set(config, TEST, 2), "three/": scene_test_set(config, TEST + 1, 3)}
    rows = enumerate(zip(names, roots, lists or [""] * len(names)))
    return {f"{row[0]}/" if i else "": file_test_set(config, *row) for i, row in rows}
