"""What an evaluation prints of a test set, from its metrics."""
from common.training import markdown_table

COLUMNS = {"attention/": "attention map", "scores/": "scores map", "proposals/": "proposals",
           "control/shuffled_": "shuffled audio", "control/silent_": "silence",
           "baseline/centre_": "centre", "baseline/whole_": "whole image"}
ROWS = {"pointing": "pointing", "iou@0.5": "IoU@0.5", "ciou_mean": "mean cIoU",
        "ciou@0.5": "cIoU@0.5", "stability": "stability"}
SHARES = (("events/accuracy", "events/n", "accuracy of the sounding class"),
          ("silence/accuracy", "silence/n", "accuracy of silence"),
          ("silence/accuracy_with_edges", "silence/n_with_edges",
           "  with frames at whose edges something sounds"))


def table_rows(flat: dict, group: str) -> list:
    """[{"name": metric, "values": {column: [%]}}], as common.training.write_results takes them."""
    rows = [{"name": name, "values": {column: [100 * flat[f"{group}{prefix}{metric}"]]
                                      for prefix, column in COLUMNS.items()
                                      if f"{group}{prefix}{metric}" in flat}}
            for metric, name in ROWS.items()]
    return [row for row in rows if row["values"]]


def table_columns(rows: list) -> list:
    return [column for column in COLUMNS.values() if any(column in row["values"] for row in rows)]


def num_frames(flat: dict, group: str) -> int:
    """Frames with ground truth, over which localization is measured."""
    return flat[f"{group}n" if group else "frames/n"]


def describe(test_set, flat: dict, config) -> str:
    """What a table is of."""
    listed = test_set.num_listed
    return ", ".join([
        f"{test_set.name}, {len(test_set.ids)} videos",
        f"N = {num_frames(flat, test_set.group)} frames with boxes",
        f"{listed} listed" if listed else f"{config.blurred:.0%} out of focus",
        f"K = {config.K_evaluated}, memory {config.memory}",
        f"boxes and controls of the {config.box_map} map, τ = 0.5"])


def results_table(test_set, flat: dict, config) -> str:
    """The table of a test set in %, and below it how often the class and silence are right."""
    group, rows = test_set.group, table_rows(flat, test_set.group)
    columns = table_columns(rows)
    cells = [[row["name"], *(f"{row['values'][c][0]:.1f}" if c in row["values"] else "–"
                             for c in columns)] for row in rows]
    lines = [f"{name}: {100 * flat[group + key]:.1f} % of {flat[group + count]} frames"
             for key, count, name in SHARES if group + key in flat]
    if f"{group}truth/stability" in flat:
        lines.append(f"stability of the ground truth: {100 * flat[f'{group}truth/stability']:.1f}")
    return "\n".join(["", f"{describe(test_set, flat, config)}, %",
                      markdown_table(cells, ["", *columns]), *lines])
