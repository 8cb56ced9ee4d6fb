"""What an evaluation prints, and the names of its numbers in metrics.json."""
from common.run import markdown

PROTOCOL = "sslalign"  # half-pixel bilinear maps, predicted where strictly above the threshold: see common.maps.PROTOCOLS
COLUMNS = {"model": "", "object-guided": "ogl/", "shuffled": "control/shuffled_", "silent": "control/silent_",
           "centre": "floor/centre_", "whole": "floor/whole_", "ceiling": "floor/ceiling_"}  # heading → prefix in metrics.json
SPELT = {"iiou": "IIoU", "ciou": "cIoU", "miou": "mIoU", "iauc": "IAUC", "auc": "AUC", "ap": "AP", "f1": "F1", "f": "F"}
RECALLS = (1, 5, 10)


def key(column: str, name: str) -> str:
    """The name in metrics.json. The model's own is GROUP/METRIC; others drop the group pairs, and interactive where iiou or iauc
    follows."""
    group, metric = name.split("/")
    if column == "model":
        return name
    return COLUMNS[column] + (metric if group == "pairs" or metric.startswith("i") else f"{group}_{metric}")


def report(test, columns: dict, undefined: int, note: str = "") -> str:
    """The tables of a set. columns: {heading: {GROUP/METRIC: fraction}}; undefined: samples without truth and prediction."""
    parts = [f"{test.name}, N = {len(test.ids)}",
             f"{len(test.ids)} found / {test.listed} listed" if test.listed else "",
             f"{len(set(test.groups))} pictures" if "interactive" in test.feeds else "",
             f"{int(test.sounding.sum())} with a sound that is seen" if "extended" in test.feeds else "",
             f"{undefined} with neither truth nor prediction" if undefined else "", f"protocol {PROTOCOL}, %"]
    tables = ["", ", ".join(filter(None, parts)), localization(columns)]
    if "alignment/cosine" in columns["model"]:
        tables += ["", cross_modal(columns["model"])]
    return "\n".join([*tables, *filter(None, [note])])


def localization(columns) -> str:
    """A row for each metric; one by an exact rule where it differs from the published rule's."""
    def cell(kind, name):
        return f"{100 * columns[kind][name]:.1f}" if name in columns[kind] else "–"
    kinds, rows = [kind for kind in COLUMNS if kind in columns], []
    for name in columns["model"]:
        if name.startswith(("retrieval", "alignment")):
            continue
        if "_exact" in name and cell("model", name) == cell("model", name.replace("_exact", "")):
            continue
        group, metric = name.split("/")
        words = [SPELT.get(word, word) for word in metric.removesuffix("@0.5").split("_")]
        words[0] += "@0.5" * metric.endswith("@0.5")
        rows.append([f"{group}: {' '.join(words)}", *(cell(kind, name) for kind in kinds)])
    return markdown(rows, ["", *kinds])


def cross_modal(found) -> str:
    """A row for each kind of retrieval, and a line on alignment (backbone features)."""
    rows = []
    for way, text in (("a2i", "A → I"), ("i2a", "I → A")):
        for suffix, features in (("", "backbone"), ("_projected", "projected")):
            for kind in ("instance", "category"):
                names = [f"retrieval/{way}_r@{k}{suffix}_{kind}" for k in RECALLS]
                if names[0] in found:
                    rows.append([f"{text}, {features}, {kind}", *(f"{100 * found[name]:.1f}" for name in names)])
    return (f"{markdown(rows, ['retrieval', *(f'R@{k}' for k in RECALLS)])}\nalignment: cosine {found['alignment/cosine']:.3f}, "
            f"distance {found['alignment/magnitude']:.3f} ± {found['alignment/magnitude_std']:.3f}")
