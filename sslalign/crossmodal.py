"""Retrieval and alignment across modalities (4.4, 4.5; Tables V, VI), and Figure 7: images for an
image with the audio of another.

N image–audio pairs have features `visual` and `audio` (N, c) of the backbones and perhaps
`visual_projected` and `audio_projected` (N, d).

>>> visual, audio = np.eye(3), np.eye(3)[[1, 0, 2]]
>>> score_cross_modal({"visual": visual, "audio": audio}, ["a", "a", None])["alignment/cosine"]
0.3333333333333333
>>> visual = torch.eye(3)
>>> nearest(compositional(visual[:1], visual[1:2]), visual, 2)
tensor([[0, 1]])
"""
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import metrics
from common.benchmarks import load_samples
from common.evaluation import SHEET_ROWS, TILE, Batch, SceneTestSet, shuffled_partners
from common.evaluation.scoring import batches
from common.io import InputError, contact_sheet, keep_inputs, overlay, read_image, write_image
from common.training import markdown_table, progress_bar

RECALLS = (1, 5, 10)
NUM_NEAREST = 5  # images of the figure
SUFFIXES = ".jpg", ".jpeg", ".png", ".webp"


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


def compositional(visual, audio, lam=0.5):
    """The query of compositional retrieval (4.4), (n, d) twice → (n, d): an image and audio.

        z = λ v / ‖v‖ + (1 − λ) a / ‖a‖
    """
    return lam * F.normalize(visual, dim=-1) + (1 - lam) * F.normalize(audio, dim=-1)


def nearest(z, gallery, k: int, excluded=None):
    """The k rows of gallery (N, d) nearest to each z (n, d) by cosine → (n, k) indices.

    excluded: (n, m), indices that do not count."""
    scores = F.normalize(z, dim=-1) @ F.normalize(gallery, dim=-1).T  # (n, N)
    if excluded is not None:
        scores = scores.scatter(1, excluded, -2.0)
    return scores.topk(k, dim=1).indices


def draw_compositions(features: dict, test_set) -> dict:
    """Figure 7, as arguments of `contact_sheet`: an image, the image whose audio is added, and the
    images nearest to the sum of their projected features."""
    gallery = np.flatnonzero(test_set.has_source)
    groups = np.array(test_set.groups)[gallery]
    gallery = gallery[np.unique(groups, return_index=True)[1]]  # each image once
    visual, audio = (torch.from_numpy(features[name][gallery])
                     for name in ("visual_projected", "audio_projected"))
    names = [str(test_set.labels[i] or test_set.ids[i]) for i in gallery]
    partners = torch.from_numpy(shuffled_partners(names))
    query = torch.stack([torch.arange(len(gallery)), partners], 1)[:SHEET_ROWS]  # (n, 2)
    z = compositional(visual[query[:, 0]], audio[query[:, 1]])
    neighbours = nearest(z, visual, max(0, min(NUM_NEAREST, len(gallery) - 2)), query)
    rows = torch.cat([query, neighbours], 1).tolist()
    return {"rows": [[overlay(test_set.image(int(gallery[i])), size=TILE) for i in row]
                     for row in rows],
            "columns": ["image", "whose audio is added",
                        *(f"nearest {k + 1}" for k in range(neighbours.shape[1]))],
            "captions": [f"{names[i]} + audio of {names[j]}: {', '.join(names[k] for k in rest)}"
                         for i, j, *rest in rows],
            "legend": "z = (v + a) / 2 of unit features; the image and that of the audio are "
                      "excluded"}


def searched_images(args, config) -> dict:
    """Path in the folder --search → function that reads the image: of all in it, of the data set
    --data in it, or of scenes, if that is its name. --image is left out. Raises InputError."""
    if args.search == "scenes":
        scenes = SceneTestSet(config, "pair")
        return {f"{name}, {scenes.labels[i]}": partial(scenes.image, i)
                for i, name in enumerate(scenes.ids)}
    own = Path(args.image).resolve()
    paths = ([sample.image for sample in load_samples(args.data, args.search)] if args.data else
             sorted(x for x in Path(args.search).rglob("*") if x.suffix.lower() in SUFFIXES))
    if not (paths := [path for path in paths if path.resolve() != own]):
        raise InputError(args.search, f"no folder with other images ({', '.join(SUFFIXES)})")
    return {os.path.relpath(path, args.search): partial(read_image, path) for path in paths}


def write_retrieved(args, predictor, waveform) -> None:
    """Figure 7 with an image and audio of one's own, to OUT.png: for each λ a row of the nearest
    images, by projected features or, of a released checkpoint, which has none, those of the
    backbones. args: of localize.py. Prints their names and cosines. Raises InputError."""
    image, out = read_image(args.image), Path(args.out).with_suffix(".png")
    images = searched_images(args, predictor.config)
    files = [args.image, args.audio, args.checkpoint, *(Path(args.search, x) for x in images)]
    keep_inputs([out], files)
    names, a = list(images), predictor.encode_audio(waveform[None])  # (1, c)

    def encode(part):  # n images → features (n, d) of them, and of the audio
        found = predictor.predict(Batch(part, {"matched": a.expand(len(part), -1)})).features
        suffix = "_projected" if "visual_projected" in found else ""
        return found[f"visual{suffix}"], found[f"audio{suffix}"]

    gallery = torch.cat([encode([images[name]() for name in part])[0]
                         for part in progress_bar(batches(names), name="images")])  # (N, d)
    query, rows, captions = encode([image]), [], []
    for lam in args.lam:
        z = compositional(*query, lam)  # (1, d)
        best = nearest(z, gallery, min(NUM_NEAREST, len(names)))[0]
        tiles = [image, *(images[names[i]]() for i in best)]
        rows.append([overlay(tile, size=TILE) for tile in tiles])
        cosines = F.cosine_similarity(z, gallery[best]).tolist()
        captions.append(f"lambda {lam:g}: " + ", ".join(
            f"{names[i]} ({cosine:.2f})" for i, cosine in zip(best, cosines)))
    columns = ["image", *(f"nearest {k + 1}" for k in range(len(rows[0]) - 1))]
    write_image(out, contact_sheet(rows, columns, captions, "z = lambda v + (1 - lambda) a of unit "
                                   f"features, v of {args.image}, a of {args.audio}"))
    print("\n".join([f"{out}: {len(names)} images are searched", *captions]))
