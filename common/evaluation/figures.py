"""The contact sheet of an evaluation: maps over pictures."""
import numpy as np

from common import metrics
from common.io import overlay

from .scoring import SIZE

SHOWN = 8  # rows
TILE = (144, 144)
LEGEND = "lime: the truth · map: from dark violet, its least, to pale yellow, its greatest"
CONTROLS = {"shuffled": "map, another sample's sound", "silent": "map, silence"}


def samples(answer, test, headings: dict) -> dict:
    """Interactive sets: a row for each picture, with truth and map of each of its sounds. Others: a row for each of the first
    samples that sound, with the maps of its own sound and of the controls.

    answer: see evaluate.Predictor.on. headings: {column: text} of the model's own maps; interactive sets show the first alone.
    Returns the arguments of common.io.contact_sheet but the path.
    """
    interactive, members = "interactive" in test.feeds, {}
    for i in np.flatnonzero(test.sounding):
        members.setdefault(test.groups[i] if interactive else i, []).append(int(i))
    shown = dict([*headings.items()][:1]) if interactive else {**headings, **CONTROLS}
    rows, captions, widest = [], [], []
    for own in list(members.values())[:SHOWN]:
        row, columns = [], []
        maps = answer(own)[0]
        maps = {kind: metrics.normalise(metrics.resize(maps[kind], SIZE, aligned=test.aligned)) for kind in shown if kind in maps}
        for k, i in enumerate(own):
            image, number = test.image(i), f" {k + 1}" if interactive else ""
            row += [overlay(image, gt=test.truth(i), size=TILE), *(overlay(image, x[k], size=TILE) for x in maps.values())]
            columns += [f"truth{number}", *(shown[kind] + number for kind in maps)]
        rows.append(row)
        widest = max(widest, columns, key=len)
        captions.append(" | ".join(str(test.labels[i] or test.ids[i]) for i in own))
    return {"rows": rows, "columns": widest, "captions": captions, "legend": LEGEND}
