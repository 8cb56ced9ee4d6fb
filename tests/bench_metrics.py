"""How fast the localisation metrics are: `python -m tests.bench_metrics [--samples 5158] [--batch 256] [--threads 2]`.

Ours (batched, one partial selection per threshold) against the formulation of the published evaluators (sample by sample in
numpy, a full sort per threshold, masks in float64), on the same smooth random 224×224 maps and boxes: cIoU and AUC, adaptive
and not, and IIoU and IAUC of pairs. Neither side is charged for making the maps. Prints times, their ratio and the largest
difference of any sample's value and of any result.
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
    """Maps (N, 224, 224) float32 in [0, 1] and boxes as truths (N, 224, 224) float32, from the sample's index alone."""
    grids, boxes = [], []
    for i in range(start, stop):
        rng = np.random.default_rng(i)
        grids.append(rng.random((1, 14, 14), dtype=np.float32))
        x, y, w, h = (
            rng.integers(0, 150),
            rng.integers(0, 150),
            rng.integers(20, 200),
            rng.integers(20, 200),
        )
        boxes.append([[x, y, min(x + w, SIZE), min(y + h, SIZE)]])
    gt = metrics.boxes_to_map(torch.tensor(np.array(boxes)), SIZE)
    coarse = torch.from_numpy(np.stack(grids)) + F.avg_pool2d(
        gt[:, None], SIZE // 14
    )  # noise, higher where the box is
    maps = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic")[:, 0]
    return metrics.normalise(maps).numpy(), gt.numpy()


def published(maps, gt):
    """(N,) cIoU and adaptive cIoU, sample by sample as the published evaluators do."""
    values = np.empty((2, len(maps)))
    for i, (heat, truth) in enumerate(zip(maps, gt)):
        truth = truth.astype(np.float64)
        area = int((truth != 0).sum())
        for j, rank in enumerate((heat.size // 2, heat.size - area if area else heat.size // 2)):
            threshold = np.sort(heat.flatten())[rank]
            mask = np.zeros(heat.shape)
            mask[heat > threshold] = 1
            values[j, i] = np.sum(mask * truth) / (np.sum(truth) + np.sum(mask * (truth == 0)))
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


def ours(maps, gt):
    values = metrics.localization(maps, gt)
    return np.stack([values["ciou"], values["ciou_adaptive"]])


def ours_set(values, groups):
    return [metrics.success_rate(values), metrics.auc(values),
            metrics.interactive(values, groups), metrics.interactive_auc(values, groups)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--samples", type=int, default=5158, help="number of maps (default: as many as VGG-SS has)"
    )
    parser.add_argument("--batch", type=int, default=256, help="maps at a time")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of ours; the published formulation has one"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    ours(*make(0, 2))  # start the threads
    seconds, values = {"ours": 0.0, "published": 0.0}, {"ours": [], "published": []}
    for start in tqdm(range(0, args.samples, args.batch), unit="batch"):
        maps, gt = make(start, min(start + args.batch, args.samples))
        for name, function in (("ours", ours), ("published", published)):
            begin = time.perf_counter()
            values[name].append(function(maps, gt))
            seconds[name] += time.perf_counter() - begin
    groups, results = [i // 2 for i in range(args.samples)], {}
    for name, function in (("ours", ours_set), ("published", published_set)):
        values[name] = np.concatenate(values[name], 1)  # (2, N)
        begin = time.perf_counter()
        results[name] = [*function(values[name][0], groups), *function(values[name][1], groups)]
        seconds[name] += time.perf_counter() - begin
    print(f"{args.samples} maps of {SIZE}x{SIZE}, {args.threads} threads")
    names = [
        f"{n}{kind}" for kind in ("", " adaptive") for n in ("cIoU@0.5", "AUC", "IIoU", "IAUC")
    ]
    for name, a, b in zip(names, results["ours"], results["published"]):
        print(f"{name:20} ours {a:.6f}   published {b:.6f}")
    for name, s in seconds.items():
        print(f"{name:20} {s:8.2f} s {1e6 * s / args.samples:9.1f} us/map")
    print(f"{'ratio':20} {seconds['published'] / seconds['ours']:8.2f}")
    print(
        f"{'largest difference':20} {np.abs(values['ours'] - values['published']).max():.2e} of a sample, "
        f"{np.abs(np.subtract(results['ours'], results['published'])).max():.2e} of a result"
    )


if __name__ == "__main__":
    main()
