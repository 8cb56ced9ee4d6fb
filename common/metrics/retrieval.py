"""Across the modalities: matched pairs of embeddings (N, d), compared by cosine. Imported from `common.metrics` like the rest."""
import numpy as np
import torch
import torch.nn.functional as F

from .protocols import tensor


def _pairs(v, a):
    """Two (N, d) of matched pairs → unit vectors in float64; a zero vector stays zero."""
    v, a = (x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(x) for x in (tensor(v), tensor(a)))
    if v.dim() != 2 or v.shape != a.shape or 0 in v.shape:
        raise ValueError(f"expected two (N, d) of pairs, got {tuple(v.shape)} and {tuple(a.shape)}")
    bad = (~(v.isfinite() & a.isfinite()).all(1)).nonzero()
    if len(bad):
        raise ValueError(f"pair {int(bad[0])} has values that are not finite")
    return F.normalize(v.double(), dim=1), F.normalize(a.double(), dim=1)


def _recall(query, gallery, k, labels, chunk):
    hits = torch.zeros(len(k), dtype=torch.long, device=query.device)
    position = torch.arange(len(gallery), device=query.device)
    for rows in position.split(chunk):
        # Rounded, so that equal vectors tie in whatever order and block they are multiplied.
        scores = (query[rows] @ gallery.T).round(decimals=9)  # (chunk, N)
        matching = scores.masked_fill(labels[rows, None] != labels, -2)
        first = matching.argmax(1, keepdim=True)  # the nearest matching item, the first of equals
        best = scores.gather(1, first)
        rank = ((scores > best) | ((scores == best) & (position < first))).sum(1)
        hits += torch.stack([(rank < limit).sum() for limit in k])
    return {limit: int(n) / len(query) for limit, n in zip(k, hits)}


@torch.no_grad()
def retrieval(query, gallery, k=(1, 5, 10), labels=None, chunk=None):
    """Recall@k by cosine of matched pairs (N, d), both ways: {"forward": {k: share}, "backward": {k: share}}.

    A query's hit is its own partner, or with labels (N,) any item of the same label, among the k nearest. Equal scores are
    ranked by index, so that equal embeddings score chance. No more than `chunk` rows of the N × N scores exist at a time, by
    default 16 million scores.
    """
    query, gallery = _pairs(query, gallery)
    chunk = chunk or max(1, 2 ** 24 // len(query))
    labels = range(len(query)) if labels is None else np.unique(
        np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels), return_inverse=True)[1]
    labels = torch.as_tensor(np.asarray(labels), device=query.device)
    if labels.shape != query.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(query)} pairs, got {tuple(labels.shape)}")
    return {"forward": _recall(query, gallery, k, labels, chunk), "backward": _recall(gallery, query, k, labels, chunk)}


def alignment(v, a):
    """Mean cosine of matched pairs, (N, d) twice (sslalign Table VI)."""
    v, a = _pairs(v, a)
    return float((v * a).sum(1).mean())


def magnitude(v, a):
    """Mean and standard deviation over pairs of ||v_i - a_i||, unit vectors, (N, d) twice (sslalign Table VI)."""
    v, a = _pairs(v, a)
    distance = (v - a).norm(dim=1)
    return float(distance.mean()), float(distance.std(correction=0))
