"""Samples of an image–audio test set for the page, and what a model finds in one's own files."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import metrics
from common.scenes import Scenes

from ..scoring import Batch
from ..test_sets import SIZE, shuffled_partners
from .clips import Clip, Gallery, Sample, mean_curves, pick


class Model(NamedTuple):
    """A trained model, as the page for one's own files and the demo use it."""
    method: str
    config: object
    read: Callable  # audio file → waveform (n,), rate; raises InputError
    locate: Callable  # image (H, W, 3) uint8 (or T of them), waveform → Clip, heatmaps or boxes


def trained_on(config) -> str:
    """What a model was trained on, and what follows for other images."""
    if config.data != "scenes":
        return f"trained on {config.data}"
    if config.objects:
        return f"trained on the objects in {Path(config.objects).name}: others it does not know"
    return (f"trained on {len(Scenes(0).names)} drawn shapes: on photographs its answer means "
            "nothing; see what README.md says of real data")


def locate_clips(model: Model, image, files) -> list:
    """A Clip of each (name, audio file), of silence, and noise; facts of these two are in all."""
    clips, sounds = [], [(name, *model.read(path)) for name, path in files]
    _, first, rate = sounds[0]
    noise = 0.1 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    sounds += [("silence", torch.zeros_like(first), rate), ("noise", noise, rate)]
    for name, waveform, rate in sounds:
        clips.append(model.locate(image, waveform))
        clips[-1].name, clips[-1].waveform, clips[-1].rate = name, waveform, rate
    for clip in clips[:-2]:
        clip.facts |= {f"{k} of {c.name}": x for c in clips[-2:] for k, x in c.facts.items()}
    return clips


def pair_gallery(predictor, test_set, audio: dict, scores: dict, count: int = 4) -> Gallery:
    """The first, the best and the worst samples of a test set: each image with its own audio, that
    of the other objects in it, that of another image, and silence.

    audio: `encode_test_audio`. scores: of `score_samples`, of which the first column is shown."""
    own, samples, kinds = next(iter(scores.values())), [], test_set.metric_groups
    partners = shuffled_partners(test_set.groups, test_set.labels)
    groups = np.asarray(test_set.groups if "interactive" in kinds else test_set.ids)
    for i, group in pick(own["ciou"], test_set.has_source, count).items():
        others = np.flatnonzero(groups == groups[i])
        queries = [("its own", i, "matched"),  # name, sample of the audio, kind
                   *(("the other object's", j, "matched") for j in others if j != i)][:4]
        if "silent" in audio:  # else heatmaps are read from files
            queries += [("another image's", partners[i], "shuffled"), ("silence", i, "silent")]
        features = {"matched": torch.stack([audio["silent" if kind == "silent" else "matched"][j]
                                            for _, j, kind in queries])} if audio else {}
        batch = Batch([test_set.image(i)] * len(queries), features, test_set.align_corners,
                      [test_set.ids[j] for _, j, _ in queries], test_set.protocol)
        heatmaps = next(iter(predictor.predict(batch).heatmaps.values()))
        if metrics.PROTOCOLS[test_set.protocol].mode == "bicubic":  # the page's resizing is not
            heatmaps = metrics.resize(heatmaps, SIZE, test_set.protocol, test_set.align_corners)
        clips = [make_clip(test_set, *query, i, heatmap, own)
                 for query, heatmap in zip(queries, heatmaps)]
        name = f"{test_set.labels[i] or ''} {test_set.ids[i]}".strip()
        samples.append(Sample(name, batch.images[:1], clips, group))
    curves = mean_curves(own["ciou_curve"][test_set.has_source]) if "ciou_curve" in own else {}
    return Gallery(f"{test_set.name}, N = {len(test_set.ids)}", samples, len(test_set.gt_map(0)),
                   test_set.align_corners, curves=curves)


def make_clip(test_set, name, j, kind, i, heatmap, own) -> Clip:
    """The audio of sample j with the image of sample i. gt: j's if it is "matched", else i's."""
    waveform, facts = test_set.waveform(j), {"maximum of the map": heatmap.max()}
    if kind == "silent":
        waveform = torch.zeros_like(waveform)
    elif test_set.labels[j]:
        name = f"{name}: {test_set.labels[j]}"
    if kind == "matched":
        facts |= {"cIoU": own["ciou"][j], "cIoU adaptive": own["ciou_adaptive"][j]}
    gt = torch.as_tensor(test_set.gt_map(j if kind == "matched" else i))
    return Clip(name, waveform, test_set.config.sample_rate, heatmap[None], gt=gt[None],
                facts=facts)
