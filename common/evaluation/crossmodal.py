"""Retrieval and alignment across modalities, of any method that has features of both.

N image–audio pairs have features `visual` and `audio` (N, c) of the backbones and perhaps
`visual_projected` and `audio_projected` (N, d). Tables V and VI of sslalign.

>>> visual, audio = np.eye(3), np.eye(3)[[1, 0, 2]]
>>> score_cross_modal({"visual": visual, "audio": audio}, ["a", "a", None])["alignment/cosine"]
0.3333333333333333
"""
import numpy as np

from common import metrics
from common.training import markdown_table

RECALLS = (1, 5, 10)


def score_cross_modal(features: dict, labels, has_source=None) -> dict:
    """Retrieval (Table V) and alignment (Table VI) of matched pairs, keys as in metrics.json.

    labels: N names. Recall of a category is left out if one is None; the paper does not say whether
    it reports that or recall of the instance. has_source: (N,) bool, others are left out."""
    rows = np.arange(len(labels)) if has_source is None else np.flatnonzero(has_source)
    features = {name: x[rows] for name, x in features.items()}
    result, gts = {}, {"instance": None}
    if None not in (names := [labels[i] for i in rows]):
        gts["category"] = names
    for suffix in ("", "_projected"):
        if f"visual{suffix}" in features:
            pair = features[f"audio{suffix}"], features[f"visual{suffix}"]
            for gt, names in gts.items():
                recall = metrics.retrieval(*pair, labels=names)
                for way, direction in (("a2i", "forward"), ("i2a", "backward")):
                    result |= {f"retrieval/{way}_r@{k}{suffix}_{gt}": x
                               for k, x in recall[direction].items()}
    pair = features["visual"], features["audio"]
    mean, deviation = metrics.magnitude(*pair)
    return {**result, "alignment/cosine": metrics.alignment(*pair),
            "alignment/magnitude": mean, "alignment/magnitude_std": deviation}


def cross_modal_table(result: dict) -> str:
    """A row for each kind of retrieval, and a line on the alignment of the backbones' features."""
    rows = []
    for way, words in (("a2i", "audio → image"), ("i2a", "image → audio")):
        for suffix, features in (("", "backbone"), ("_projected", "projected")):
            for gt in ("instance", "category"):
                keys = [f"retrieval/{way}_r@{k}{suffix}_{gt}" for k in RECALLS]
                if keys[0] in result:
                    rows.append([f"{words}, {features}, {gt}",
                                 *(f"{100 * result[key]:.1f}" for key in keys)])
    cosine, magnitude, deviation = (result[f"alignment/{name}"]
                                    for name in ("cosine", "magnitude", "magnitude_std"))
    return (f"{markdown_table(rows, ['retrieval, %', *(f'R@{k}' for k in RECALLS)])}\n"
            f"alignment: cosine {cosine:.3f}, distance {magnitude:.3f} ± {deviation:.3f}")
