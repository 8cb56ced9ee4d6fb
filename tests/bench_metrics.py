"""How fast the metrics are: `python -m tests.bench_metrics [--samples 5158] [--threads 1]`.

Localization: `common.metrics` (blocks of heatmaps, partitions, nothing normalised) against the
formulation of the published evaluators (heatmap by heatmap in numpy: min-max normalisation, one
full sort per threshold, float64 masks), on the same smooth random 224×224 heatmaps and boxes:
cIoU@0.5, AUC, IIoU and IAUC of pairs, plain and adaptive. Retrieval: 512-dimensional pairs against
one product and an argsort in each direction. Every time is the best of three.
"""

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common import metrics

SIZE = 224


def make(start, stop):
    """Heatmaps in [0, 4] and gt of boxes, (N, 224, 224) float32 twice, from the sample's index."""
    grids, boxes = [], []
    for i in range(start, stop):
        rng = np.random.default_rng(i)
        grids.append(rng.random((1, 14, 14), dtype=np.float32))
        (x, y), (w, h) = rng.integers(0, 150, 2), rng.integers(20, 200, 2)
        boxes.append([[x, y, min(x + w, SIZE), min(y + h, SIZE)]])
    gt = metrics.boxes_to_map(torch.tensor(np.array(boxes)), SIZE)
    coarse = torch.from_numpy(np.stack(grids)) + F.avg_pool2d(gt[:, None], SIZE // 14)
    heatmaps = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic")[:, 0]
    # Times 4, so that the published normalisation has something to do and rounds nothing.
    return 4 * metrics.normalise(heatmaps).numpy(), gt.numpy()


def published(heatmaps, gt):
    """cIoU and adaptive cIoU as the published evaluators compute them, (2, N)."""
    values = np.empty((2, len(heatmaps)))
    for i, (heatmap, target) in enumerate(zip(heatmaps, gt)):
        heatmap = (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())
        target = target.astype(np.float64)
        area = int((target != 0).sum())
        ranks = heatmap.size // 2, heatmap.size - area if area else heatmap.size // 2
        for j, rank in enumerate(ranks):
            mask = np.zeros(heatmap.shape)
            mask[heatmap > np.sort(heatmap.flatten())[rank]] = 1
            union = np.sum(target) + np.sum(mask * (target == 0))
            values[j, i] = np.sum(mask * target) / union
    return values


def published_set(values, groups):
    """cIoU@0.5, AUC, IIoU, IAUC in the same manner."""
    members = {}
    for value, group in zip(values, groups):
        members.setdefault(group, []).append(value)
    rate = [sum(v >= 0.05 * i for v in values) / len(values) for i in range(21)]
    together = [
        np.mean([min(v >= 0.05 * i for v in g) for g in members.values()]) for i in range(21)
    ]
    area = [sum(0.05 * (a + b) / 2 for a, b in pairwise(r)) for r in (rate, together)]
    return [rate[10], area[0], together[10], area[1]]  # 10: at 0.5


def ours(heatmaps, gt):
    values = metrics.localization(heatmaps, gt)
    return np.stack([values["ciou"], values["ciou_adaptive"]])


def ours_set(values, groups):
    return [
        metrics.success_rate(values),
        metrics.auc(values),
        metrics.interactive(values, groups),
        metrics.interactive_auc(values, groups),
    ]


def argsort_recall(query, gallery, k=(1, 5, 10)):
    """Recall@k both ways from a full sort of all cosines."""
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    scores, recalls = query @ gallery.T, {}
    for way, s in (("forward", scores), ("backward", scores.T)):
        rank = (np.argsort(-s, 1) == np.arange(len(s))[:, None]).argmax(1)
        recalls[way] = {limit: float((rank < limit).mean()) for limit in k}
    return recalls


def best_of(function, *args, rounds=3):
    """(seconds, result) of the fastest of three calls."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = function(*args)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def bench_localization(samples, batch):
    seconds, values, results = {"ours": 0.0, "published": 0.0}, {"ours": [], "published": []}, {}
    for start in tqdm(range(0, samples, batch), unit="batch"):
        arrays = make(start, min(start + batch, samples))
        for name, function in (("ours", ours), ("published", published)):
            took, value = best_of(function, *arrays)
            seconds[name] += took
            values[name].append(value)
    groups = [i // 2 for i in range(samples)]
    for name, function in (("ours", ours_set), ("published", published_set)):
        values[name], results[name] = np.concatenate(values[name], 1), []
        for of_rule in values[name]:  # plain, adaptive
            took, result = best_of(function, of_rule, groups)
            seconds[name] += took
            results[name] += result
    names = [
        f"{n}{rule}" for rule in ("", " adaptive") for n in ("cIoU@0.5", "AUC", "IIoU", "IAUC")
    ]
    for name, a, b in zip(names, results["ours"], results["published"]):
        print(f"{name:20} ours {a:.6f}   published {b:.6f}")
    for name, s in seconds.items():
        print(f"{name:20} {s:8.2f} s {1e6 * s / samples:9.1f} us/map")
    print(f"{'ratio':20} {seconds['published'] / seconds['ours']:8.2f}")
    largest = [np.abs(np.subtract(*x.values())).max() for x in (values, results)]
    print(f"{'largest difference':20} {largest[0]:.2e} of a sample, {largest[1]:.2e} of a result")


def bench_retrieval(samples, dim=512):
    query, noise = np.random.default_rng(0).normal(size=(2, samples, dim)).astype(np.float32)
    pairs = query, query + 5 * noise
    (took, recall), (naive, same) = (
        best_of(metrics.retrieval, *pairs),
        best_of(argsort_recall, *pairs),
    )
    print(f"retrieval of {samples} pairs: {took:.2f} s, by argsort {naive:.2f} s")
    print(f"{'equal recalls':20} {recall == same}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--samples", type=int, default=5158, help="heatmaps (default: as VGG-SS has)"
    )
    parser.add_argument("--batch", type=int, default=256, help="heatmaps at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{args.samples} heatmaps of {SIZE}x{SIZE}, {args.threads} threads")
    bench_localization(args.samples, args.batch)
    bench_retrieval(args.samples)


if __name__ == "__main__":
    main()
