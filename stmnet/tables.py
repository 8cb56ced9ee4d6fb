"""What an evaluation prints of a test set, from its metrics, and writes for the READMEs."""
from common.training import markdown_table, write_results

COLUMNS = {"attention/": "attention map", "scores/": "scores map", "proposals/": "proposals",
           "control/shuffled_": "shuffled audio", "control/silent_": "silence",
           "baseline/centre_": "centre", "baseline/whole_": "whole image"}
ROWS = {"pointing": "pointing", "iou@0.5": "IoU@0.5", "ciou_mean": "mean cIoU",
        "ciou@0.5": "cIoU@0.5", "stability": "stability"}
SHARES = {"events/accuracy": ("events/n", "accuracy of the sounding class"),
          "silence/accuracy": ("silence/n", "accuracy of silence"),
          "silence/accuracy_with_edges": ("silence/n_with_edges",
                                          "  with frames at whose edges something sounds")}


def table(flat: dict, group: str) -> tuple[list, list]:
    """Columns and rows, in %, as common.training.write_results takes them."""
    rows = [{"name": name, "values": {column: [100 * flat[f"{group}{prefix}{metric}"]]
                                      for prefix, column in COLUMNS.items()
                                      if f"{group}{prefix}{metric}" in flat}}
            for metric, name in ROWS.items()]
    rows = [row for row in rows if row["values"]]
    return [c for c in COLUMNS.values() if any(c in row["values"] for row in rows)], rows


def heading(test_set, flat: dict, config) -> str:
    group, listed = test_set.group, test_set.num_listed
    return ", ".join([
        f"{test_set.name}, {len(test_set.ids)} videos",
        f"N = {flat[f'{group}n' if group else 'frames/n']} frames with boxes",
        f"{listed} listed" if listed else f"{config.blurred:.0%} out of focus",
        f"K = {config.K_evaluated}, memory {config.memory}",
        f"boxes and controls of the {config.box_map} map, τ = 0.5"])


def results_table(test_set, flat: dict, config) -> str:
    """The table of a test set in %, and below it how often the class and silence are right."""
    group, (columns, rows) = test_set.group, table(flat, test_set.group)
    cells = [[row["name"], *(f"{row['values'][c][0]:.1f}" if c in row["values"] else "–"
                             for c in columns)] for row in rows]
    lines = [f"{name}: {100 * flat[group + key]:.1f} % of {flat[group + count]} frames"
             for key, (count, name) in SHARES.items() if group + key in flat]
    if f"{group}truth/stability" in flat:
        lines.append(f"stability of the ground truth: {100 * flat[f'{group}truth/stability']:.1f}")
    return "\n".join(["", f"{heading(test_set, flat, config)}, %",
                      markdown_table(cells, ["", *columns]), *lines])


def write_tables(path, command: str, test_sets: list, flat: dict, config) -> None:
    """The table of each test set as a JSON file: `path`, and `path`-GROUP for a further one."""
    for test_set in test_sets:
        group, (columns, rows) = test_set.group, table(flat, test_set.group)
        name = f"{path.stem}-{group.rstrip('/')}{path.suffix}" if group else path.name
        write_results(path.with_name(name), title=heading(test_set, flat, config), command=command,
                      columns=columns, rows=rows, n=flat[f"{group}n" if group else "frames/n"],
                      seeds=[config.seed])
