"""Every sample of a test set, scored, by as many processes as there are."""
import numpy as np
import torch

from common import metrics
from common.training import dist
from common.training import progress_bar

from .tables import PROTOCOL
from .scoring import SIZE, floors, values

BATCH = 50


def batches(rows: list) -> list:
    return [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]


def measure(answer, test, own: str, keep=None) -> dict:
    """`score.values` of every column, and the features: {column: {name: (N, …)}} of all samples in order, in every process.

    answer: see evaluate.Predictor.on. own: the column that is also scored by exact rules. keep(rows, maps, features): what else to do
    with maps as the model gave them.
    """
    parts, extended = {}, "extended" in test.feeds
    for rows in progress_bar(batches(list(dist.split(len(test.ids)))), name=f"looking, {test.name}"):
        maps, features = answer(rows)
        truth = np.stack([test.truth(i) for i in rows])
        masks = np.stack([test.mask(i) for i in rows]) if "masks" in test.feeds else None
        if keep:
            keep(rows, maps, features)
        maps = {kind: metrics.resize(x, SIZE, PROTOCOL, test.aligned).numpy() for kind, x in maps.items()}
        found = {kind: values(x, truth, masks, extended, exact=kind == own) for kind, x in maps.items()}
        for column, named in {**found, **floors(truth, masks, extended), "features": features}.items():
            for name, x in named.items():
                parts.setdefault((column, name), []).append(torch.as_tensor(x))
    merged = {}
    for column, name in dist.gather_objects(list(parts))[0]:  # the first process has samples, others may have none
        merged.setdefault(column, {})[name] = dist.merge_rows(parts.get((column, name), []), len(test.ids)).numpy()
    return merged
