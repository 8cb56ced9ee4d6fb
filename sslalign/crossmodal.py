"""Cross-modal interaction (4.4, 4.5): retrieval, alignment, compositional retrieval; arrays alone but for the sheet."""
import numpy as np
import torch
import torch.nn.functional as F

from common import metrics
from common.io import overlay
from common.training import markdown_table

from common.evaluation.test_sets import others
from common.evaluation.figures import SHOWN, TILE

RECALLS = (1, 5, 10)
NEAREST = 5


def cross_modal(features, labels) -> dict:
    """Retrieval (Table V) and alignment (Table VI) of N matched pairs.

    features: visual and audio (N, c) of the backbones and, if any, visual_projected and audio_projected. labels: N names; a
    category's recall is left out where one is None, for the paper does not say which of the two it reports.
    """
    result = {}
    kinds = {"instance": None, **({} if None in labels else {"category": labels})}
    for suffix in ("", "_projected"):
        if f"visual{suffix}" in features:
            for kind, names in kinds.items():
                recall = metrics.retrieval(features[f"audio{suffix}"], features[f"visual{suffix}"], labels=names)
                for way, direction in (("a2i", "forward"), ("i2a", "backward")):
                    result |= {f"retrieval/{way}_r@{k}{suffix}_{kind}": share for k, share in recall[direction].items()}
    pair = features["visual"], features["audio"]
    mean, deviation = metrics.magnitude(*pair)
    result["alignment/cosine"] = metrics.alignment(*pair)
    return {**result, "alignment/magnitude": mean, "alignment/magnitude_std": deviation}


def table(found) -> str:
    """A row for each kind of retrieval, and a line on alignment (backbone features)."""
    rows = []
    for way, text in (("a2i", "A → I"), ("i2a", "I → A")):
        for suffix, features in (("", "backbone"), ("_projected", "projected")):
            for kind in ("instance", "category"):
                names = [f"retrieval/{way}_r@{k}{suffix}_{kind}" for k in RECALLS]
                if names[0] in found:
                    rows.append([f"{text}, {features}, {kind}", *(f"{100 * found[name]:.1f}" for name in names)])
    return (f"{markdown_table(rows, ['retrieval', *(f'R@{k}' for k in RECALLS)])}\nalignment: cosine {found['alignment/cosine']:.3f}, "
            f"distance {found['alignment/magnitude']:.3f} ± {found['alignment/magnitude_std']:.3f}")


def compositional(visual, audio, lam=0.5):
    """z = lambda v + (1 - lambda) a of unit vectors, (n, d) twice → (n, d): a picture, changed by a sound (4.4)."""
    return lam * F.normalize(visual, dim=-1) + (1 - lam) * F.normalize(audio, dim=-1)


def nearest(z, gallery, k, left_out=None):
    """The k nearest by cosine of gallery (N, d) to each z (n, d) → (n, k) indices, without those in left_out (n, m)."""
    scores = F.normalize(z, dim=-1) @ F.normalize(gallery, dim=-1).T  # (n, N)
    if left_out is not None:
        scores = scores.scatter(1, left_out, -2.0)
    return scores.topk(k, dim=1).indices


def compositions(features, test) -> dict:
    """Figure 7: a picture, the picture whose sound is added, and the nearest pictures to the sum of both projected features."""
    gallery = np.flatnonzero(test.sounding)
    gallery = gallery[np.unique(np.array(test.groups)[gallery], return_index=True)[1]]  # each picture once
    visual, audio = (torch.from_numpy(features[name][gallery]) for name in ("visual_projected", "audio_projected"))
    names = [str(test.labels[i] or test.ids[i]) for i in gallery]
    asked = torch.stack([torch.arange(len(gallery)), torch.from_numpy(others(names))], 1)[:SHOWN]  # (n, 2): picture, sound
    z = compositional(visual[asked[:, 0]], audio[asked[:, 1]])
    found = nearest(z, visual, max(0, min(NEAREST, len(gallery) - 2)), asked)
    rows = torch.cat([asked, found], 1).tolist()
    return {"rows": [[overlay(test.image(int(gallery[i])), size=TILE) for i in row] for row in rows],
            "columns": ["picture", "whose sound is added", *(f"nearest {k + 1}" for k in range(found.shape[1]))],
            "captions": [f"{names[i]} + the sound of {names[j]}: {', '.join(names[k] for k in rest)}" for i, j, *rest in rows],
            "legend": "z = (v + a) / 2 of unit features; the picture and the sound's own are left out"}
