"""The table that an evaluation prints of a test set, from its metrics."""
from common.evaluation.tables import Table

COLUMNS = {"attention/": "attention map", "scores/": "scores map", "proposals/": "proposals",
           "control/shuffled_": "shuffled audio", "control/silent_": "silent audio",
           "control/zero_": "digital zero", "baseline/centre_": "baseline: centre",
           "baseline/whole_": "baseline: whole image",
           "baseline/fixed_": "baseline: best fixed rectangle"}
ROWS = {"pointing": "pointing", "iou@0.5": "IoU@0.5 (paper)", "iou_gated@0.5": "IoU@0.5 (gated)",
        "iou_released@0.5": "IoU@0.5 (released)", "ciou_mean": "cIoU, mean",
        "ciou@0.5": "cIoU@0.5, share", "stability": "stability"}
SHARES = {"events/accuracy": ("events/n", "accuracy of the sounding class"),
          "silence/accuracy": ("silence/n", "accuracy of silence"),
          "silence/accuracy_with_edges": ("silence/n_with_edges", "  with sound at their edges")}


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
