"""From the scores of frames to those of a test set of videos."""
from typing import NamedTuple

import numpy as np
import torch

from common import metrics

from .frames import METRICS, FrameScores, baseline_scores


class VideoScores(NamedTuple):
    """All that is measured of T frames, of one video or of several."""
    columns: dict  # prefix of metrics.json → FrameScores
    curve: torch.Tensor  # (T, number of thresholds), see page.score_curve
    betas: dict  # "a", "v", "av" → (T, 2): weight of the past, relative entropy
    boxes: list  # T of (n, 4)
    gt_stability: np.ndarray  # (T,), what a perfect map would have
    is_silent: np.ndarray  # (T,) bool
    labels: np.ndarray  # (T,) class names
    pred_labels: np.ndarray  # (T,) class names


def concatenate(videos) -> VideoScores:
    """The scores of all frames of several videos, in their order."""
    columns = {prefix: FrameScores(*(None if parts[0] is None else torch.cat(parts)
                                     for parts in zip(*(v.columns[prefix] for v in videos))))
               for prefix in videos[0].columns}
    betas = {name: torch.cat([v.betas[name] for v in videos]) for name in videos[0].betas}
    return VideoScores(columns, torch.cat([v.curve for v in videos]), betas,
                       [b for v in videos for b in v.boxes],
                       *map(np.concatenate, list(zip(*videos))[4:]))


def aggregate(scores: VideoScores, classes, box_map: str, background: str) -> dict:
    """Full keys of metrics.json, without the group → numbers. Localization is of frames with gt.
    classes: names that the model can answer; background: the one for silence."""
    has_gt, labels = np.array([len(b) > 0 for b in scores.boxes]), scores.labels
    flat, boxes = {"frames/n": int(has_gt.sum())}, [b for b in scores.boxes if len(b)]
    columns = {**scores.columns, "frames/": scores.columns[f"{box_map}/"]}
    columns = {prefix: FrameScores(*(None if x is None else x[has_gt] for x in frames))
               for prefix, frames in columns.items()}
    for prefix, frames in {**columns, **(baseline_scores(boxes) if boxes else {})}.items():
        values = {k: x[~x.isnan()] for k, x in frames._asdict().items() if x is not None}
        flat |= {prefix + metric: mean(values[name]) for metric, (name, mean) in METRICS.items()
                 if len(values.get(name, ()))}
    if not np.isnan(scores.gt_stability).all():
        flat["truth/stability"] = metrics.mean(scores.gt_stability)
    for name, values in scores.betas.items():  # of frames that have a past
        if len(values := values[~values[:, 1].isnan()]):
            past, entropy = values.mean(0).tolist()
            flat |= {f"beta/{name}/past": past, f"beta/{name}/entropy": entropy}
    # A clip of "flute, harp" is of two classes, unless that is the name of one ("Violin, fiddle").
    names = [{x} if x in classes else {x, *x.split(", ")} for x in labels.tolist()]
    is_right = np.array([pred in x for pred, x in zip(scores.pred_labels.tolist(), names)])
    is_event, is_known = labels != background, np.array([not x.isdisjoint(classes) for x in names])
    for key, count, where in (
            ("events/accuracy", "events/n", is_event & is_known),
            ("silence/accuracy", "silence/n", scores.is_silent),
            ("silence/accuracy_with_edges", "silence/n_with_edges", ~is_event)):
        flat[count] = int(where.sum())
        if where.any():
            flat[key] = float(is_right[where].mean())
    for label in sorted(set(labels[has_gt])):
        iou = columns["frames/"].iou[labels[has_gt] == label]
        flat |= {f"class/{label}/iou@0.5": metrics.success_rate(iou), f"class/{label}/n": len(iou)}
    return flat
