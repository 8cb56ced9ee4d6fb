"""Drawings of an evaluation: heatmaps over images, in a contact sheet or alone with their boxes."""
import numpy as np
import torch

from common import metrics
from common.io import overlay, write_image, write_json

from .scoring import CONTROLS, PROTOCOL, make_batch
from .tables import HEADINGS
from .test_sets import SIZE

SHEET_ROWS, TILE = 8, (144, 144)
LEGEND = "lime: the ground truth · heatmap: from dark violet, its minimum, to pale yellow"


def draw_samples(predictor, test_set, audio: dict, headings: dict) -> dict:
    """The first samples with a source, as arguments of `contact_sheet`: a row for each image.

    A row has the ground truth and the heatmap of each column in `headings` and of the controls. In
    interactive sets it has those of the first column, for each source of the image.
    """
    is_interactive, members = "interactive" in test_set.metric_groups, {}
    for i in np.flatnonzero(test_set.has_source):
        members.setdefault(test_set.groups[i] if is_interactive else i, []).append(int(i))
    if is_interactive:
        headings = dict([*headings.items()][:1])
    else:
        headings = {**headings, **{c: HEADINGS[c] for c in CONTROLS.values()}}
    sheet = {"rows": [], "columns": [], "captions": [], "legend": LEGEND}
    for samples in list(members.values())[:SHEET_ROWS]:
        heatmaps = predictor.predict(make_batch(test_set, audio, samples)).heatmaps
        heatmaps = {c: unit(heatmaps[c], test_set.align_corners) for c in headings if c in heatmaps}
        row, columns = [], []
        for k, i in enumerate(samples):
            image, number = test_set.image(i), f" {k + 1}" if is_interactive else ""
            row += [overlay(image, gt=test_set.gt_map(i), size=TILE),
                    *(overlay(image, maps[k], size=TILE) for maps in heatmaps.values())]
            columns += [f"ground truth{number}", *(headings[c] + number for c in heatmaps)]
        sheet["rows"].append(row)
        sheet["columns"] = max(sheet["columns"], columns, key=len)
        labels = [str(test_set.labels[i] or test_set.ids[i]) for i in samples]
        sheet["captions"].append(" | ".join(labels))
    return sheet


def unit(heatmaps, align_corners=False):
    """(n, h, w) → (n, SIZE, SIZE), each from 0 to 1."""
    return metrics.normalise(metrics.resize(heatmaps, SIZE, PROTOCOL, align_corners))


def write_localization(out, image, heatmap, boxes, facts: dict) -> None:
    """Write OUT.png, the image with heatmap (h, w) and boxes (n, 5), and OUT.json with the boxes
    in pixels, their scores, the heatmap's maximum and `facts`. Prints the boxes.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    write_image(out, overlay(image, metrics.normalise(heatmap[None])[0], boxes[:, :4]))
    height, width = image.shape[:2]
    pixels = (boxes[:, :4] * torch.tensor([width, height, width, height])).tolist()
    similarity = heatmap.max().item()
    write_json(out.with_suffix(".json"), {**facts, "boxes": pixels, "scores": boxes[:, 4],
                                          "similarity": similarity})
    print(f"{out}: {len(pixels)} boxes, cosine up to {similarity:.2f}")
    for box in pixels:
        print(f"  {', '.join(f'{x:.0f}' for x in box)} (x0, y0, x1, y1 in pixels)")
