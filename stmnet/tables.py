"""The table that an evaluation prints of a test set, from its metrics, and contact sheets."""
from common.evaluation.boxes import boxes_from_maps
from common.evaluation.frames import enlarge
from common.evaluation.tables import Table
from common.io import overlay

COLUMNS = {"attention/": "attention map", "scores/": "scores map", "proposals/": "proposals",
           "control/shuffled_": "shuffled audio", "control/silent_": "silent audio",
           "control/zero_": "digital zero", "baseline/centre_": "baseline: centre",
           "baseline/whole_": "baseline: whole image",
           "baseline/fixed_": "baseline: best fixed rectangle"}
ROWS = {"pointing": "pointing", "iou@0.5": "IoU@0.5 (Otsu)", "iou_gated@0.5": "IoU@0.5 (gated)",
        "iou_released@0.5": "IoU@0.5 (released)", "ciou_mean": "cIoU, mean",
        "ciou@0.5": "cIoU@0.5, share", "stability": "stability"}
SHARES = {"events/accuracy": ("events/n", "accuracy of the sounding class"),
          "silence/accuracy": ("silence/n", "accuracy of silence"),
          "silence/accuracy_with_edges": ("silence/n_with_edges", "  with sound at their edges")}
NUM_VIDEOS, NUM_FRAMES = 3, 10  # of a test set; of a video, at most
TILE = (112, 112)
LEGEND = "cyan: predicted · lime: ground truth · heatmap: from dark violet, its least, to yellow"


def results_table(test_set, flat: dict, config) -> Table:
    """flat: full keys of metrics.json without the test set's group → numbers."""
    rows = [{"name": name, "values": {column: [100 * flat[prefix + metric]]
                                      for prefix, column in COLUMNS.items()
                                      if prefix + metric in flat}}
            for metric, name in ROWS.items()]
    rows = [row for row in rows if row["values"]]
    columns = [c for c in COLUMNS.values() if any(c in row["values"] for row in rows)]
    title = [f"{test_set.name}, {len(test_set.ids)} videos",
             f"N = {flat['frames/n']} frames with boxes",
             f"{test_set.num_listed} listed" if test_set.num_listed else
             f"{config.blurred:.0%} out of focus", f"memory {config.memory}",
             f"{config.memory_seconds:g} s", f"boxes and controls of {config.box_map}, τ = 0.5, %"]
    return Table(", ".join(title), columns, rows, flat["frames/n"])


def notes(flat: dict) -> list:
    """Lines below the table: how often the class and silence are right."""
    lines = [f"{name}: {100 * flat[key]:.1f} % of {flat[count]} frames"
             for key, (count, name) in SHARES.items() if key in flat]
    for name in ("a", "v", "av"):
        if f"beta/{name}/past" in flat:
            past, entropy = (100 * flat[f"beta/{name}/{key}"] for key in ("past", "entropy"))
            lines.append(f"β of {name}: {past:.1f} % on the past, entropy {entropy:.1f} % of equal")
    if "truth/stability" in flat:
        lines.append(f"stability of the ground truth: {100 * flat['truth/stability']:.1f} %")
    return lines


def draw_video_rows(sample, propose=None) -> dict:
    """Caption → row of tiles, of the annotated frames of a page.Sample with its own clip. propose:
    images → boxes (n, 4) of each, which are drawn together with the boxes of the heatmap."""
    own = sample.clips[0]
    shown = [k for k, gt in enumerate(own.gt) if gt is not None]
    shown = shown[::-(-len(shown) // NUM_FRAMES)]
    frames, maps = [sample.frames[k] for k in shown], enlarge(own.heatmaps[shown])
    title = " ".join([sample.group, *(f"{sample.times[k]:.1f} s" for k in shown)])
    labels, gt_labels = (" | ".join(x[k] for k in shown) for x in (own.labels, sample.labels))

    def tiles(name, values):
        return [overlay(f, size=TILE, **{name: x}) for f, x in zip(frames, values)]

    rows = {title: [overlay(f, size=TILE) for f in frames], "heatmap": tiles("heatmap", maps)}
    if propose:
        rows["boxes of the heatmap"] = tiles("boxes", [b[:, :4] for b in boxes_from_maps(maps)])
        rows["proposals"] = tiles("boxes", propose(frames))
    rows[f"predicted boxes; class: {labels}"] = tiles("boxes", [own.boxes[k][:, :4] for k in shown])
    rows[f"ground truth; class: {gt_labels}"] = tiles("gt", [own.gt[k] for k in shown])
    return rows


def contact_sheet(samples, propose=None) -> dict:
    """The rows of some videos, as arguments of common.io.contact_sheet."""
    videos = [draw_video_rows(sample, propose) for sample in samples]
    return {"rows": [row for rows in videos for row in rows.values()], "legend": LEGEND,
            "captions": [caption for rows in videos for caption in rows]}
