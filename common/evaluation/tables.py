"""What an evaluation prints, and the names of its numbers in metrics.json."""
from common.training import markdown_table

PROTOCOL = "sslalign"  # half-pixel bilinear maps, predicted where strictly above the threshold: see common.maps.PROTOCOLS
BESIDE = {"shuffled": "control/shuffled_", "silent": "control/silent_", "centre": "floor/centre_", "whole": "floor/whole_",
          "ceiling": "floor/ceiling_"}  # heading of what stands beside a score → its prefix in metrics.json
SPELT = {"iiou": "IIoU", "ciou": "cIoU", "miou": "mIoU", "iauc": "IAUC", "auc": "AUC", "ap": "AP", "f1": "F1", "f": "F"}


def key(prefix: str, name: str) -> str:
    """The name in metrics.json of GROUP/METRIC. With a prefix the group pairs is left out, and interactive where iiou or iauc
    follows."""
    group, metric = name.split("/")
    return prefix + (metric if group == "pairs" or metric.startswith("i") else f"{group}_{metric}") if prefix else name


def report(test, columns: dict, undefined: int, *notes: str) -> str:
    """The table of a set, and notes below it. columns: {heading: {GROUP/METRIC: fraction}}, the first is the model's; undefined: samples
    without truth and prediction."""
    parts = [f"{test.name}, N = {len(test.ids)}",
             f"{len(test.ids)} found / {test.listed} listed" if test.listed else "",
             f"{len(set(test.groups))} pictures" if "interactive" in test.feeds else "",
             f"{int(test.sounding.sum())} with a sound that is seen" if "extended" in test.feeds else "",
             f"{undefined} with neither truth nor prediction" if undefined else "", f"protocol {PROTOCOL}, %"]
    return "\n".join(["", ", ".join(filter(None, parts)), localization(columns), *filter(None, notes)])


def localization(columns) -> str:
    """A row for each metric; one by an exact rule where it differs from the published rule's."""
    def cell(kind, name):
        return f"{100 * columns[kind][name]:.1f}" if name in columns[kind] else "–"
    own, rows = next(iter(columns)), []
    for name in columns[own]:
        if "_exact" in name and cell(own, name) == cell(own, name.replace("_exact", "")):
            continue
        group, metric = name.split("/")
        words = [SPELT.get(word, word) for word in metric.removesuffix("@0.5").split("_")]
        words[0] += "@0.5" * metric.endswith("@0.5")
        rows.append([f"{group}: {' '.join(words)}", *(cell(kind, name) for kind in columns)])
    return markdown_table(rows, ["", *columns])
