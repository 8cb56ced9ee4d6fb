"""Cross-modal metrics of matched pairs of embeddings (N, d), compared by cosine."""
import numpy as np
import torch
import torch.nn.functional as F

from .arrays import NotFinite, tensor

TIE = 1e-6  # cosines that differ by no more are equal: float32 rounds them by less


@torch.no_grad()
def retrieval(query, gallery, k=(1, 5, 10), labels=None, chunk=256):
    """Recall@k of matched pairs (N, d), both ways: {"forward": {k: share}, "backward": …}.

        R@k = |{ i : fewer than k items are more similar to query i than its partner }| / N

    Row i of one belongs to row i of the other; with labels (N,), a hit is any item of the same
    label. Cosines are float32 and equal if they differ by at most 1e-6. Equal ones are ranked by
    index, so that equal embeddings score chance. chunk × N cosines exist at a time.

    >>> v = torch.eye(4)
    >>> retrieval(v, v[[0, 1, 3, 2]], k=(1, 4))["forward"]  # the last two are swapped
    {1: 0.5, 4: 1.0}
    """
    query, gallery = (x.float() for x in unit_pairs(query, gallery))
    if labels is None:
        ranks = pair_ranks(query, gallery, chunk)
    else:
        labels = labels.cpu() if isinstance(labels, torch.Tensor) else labels
        labels = torch.from_numpy(np.unique(labels, return_inverse=True)[1]).to(query.device)
        if labels.shape != (len(query),):
            raise ValueError(f"labels: expected one for each of {len(query)} pairs, "
                             f"got {tuple(labels.shape)}")
        ranks = (label_ranks(query, gallery, labels, chunk),
                 label_ranks(gallery, query, labels, chunk))
    return {way: {limit: int((rank < limit).sum()) / len(query) for limit in k}
            for way, rank in zip(("forward", "backward"), ranks)}


def pair_ranks(query, gallery, chunk):
    """Ranks of the partners, counted from 0: (N,) of queries and (N,) of gallery items.

    One product serves both: query i ranks row i of the cosines, gallery item j column j."""
    right, position = (query * gallery).sum(1), torch.arange(len(query), device=query.device)
    forward, backward = [], torch.zeros_like(right)
    for i in position.split(chunk):
        scores = query[i] @ gallery.T  # (chunk, N)
        forward.append(num_ahead(scores, right[i, None], position < i[:, None], 1))
        backward += num_ahead(scores, right, i[:, None] < position, 0)
    return torch.cat(forward), backward


def label_ranks(query, gallery, labels, chunk):
    """(N,) rank of the first item that has the query's label, counted from 0."""
    position, ranks = torch.arange(len(query), device=query.device), []
    for i in position.split(chunk):
        scores = query[i] @ gallery.T  # (chunk, N)
        matching = scores.masked_fill(labels[i, None] != labels, -2)
        right = matching.amax(1, keepdim=True)
        first = (matching >= right - TIE).int().argmax(1, keepdim=True)
        ranks.append(num_ahead(scores, right, position < first, 1))
    return torch.cat(ranks)


def num_ahead(scores, right, is_before, dim):
    """How many scores are ahead of the right one along dim: higher, or equal and before it."""
    bound = torch.where(is_before, right - TIE, right + TIE)
    return torch.gt(scores, bound, out=torch.empty_like(scores)).sum(dim)


def unit_pairs(v, a):
    """Two (N, d) of matched pairs → unit vectors in float64; a zero vector stays zero."""
    v, a = (torch.as_tensor(tensor(x)).detach() for x in (v, a))
    if v.dim() != 2 or v.shape != a.shape or 0 in v.shape:
        raise ValueError(f"expected two (N, d) of pairs, got {tuple(v.shape)}, {tuple(a.shape)}")
    bad = (~(v.isfinite() & a.isfinite()).all(1)).nonzero()
    if len(bad):
        raise NotFinite(f"pair {int(bad[0])} has values that are not finite")
    return F.normalize(v.double(), dim=1), F.normalize(a.double(), dim=1)


def alignment(v, a):
    """1/N Σᵢ cos(vᵢ, aᵢ) of matched pairs, (N, d) twice (sslalign Table VI)."""
    v, a = unit_pairs(v, a)
    return float((v * a).sum(1).mean())


def magnitude(v, a):
    """Mean and standard deviation over pairs of ‖vᵢ − aᵢ‖ of unit vectors (sslalign Table VI)."""
    v, a = unit_pairs(v, a)
    distance = (v - a).norm(dim=1)
    return float(distance.mean()), float(distance.std(correction=0))
