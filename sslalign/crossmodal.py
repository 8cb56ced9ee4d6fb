"""Compositional retrieval (4.4, Figure 7): images for an image with the audio of another.

>>> visual = torch.eye(3)
>>> nearest(compositional(visual[:1], visual[1:2]), visual, 2)
tensor([[0, 1]])
"""
import numpy as np
import torch
import torch.nn.functional as F

from common.evaluation import SHEET_ROWS, TILE, shuffled_partners
from common.io import overlay

NUM_NEAREST = 5  # images of the figure


def compositional(visual, audio, lam=0.5):
    """The query of compositional retrieval (4.4), (n, d) twice → (n, d): an image and audio.

        z = λ v / ‖v‖ + (1 − λ) a / ‖a‖
    """
    return lam * F.normalize(visual, dim=-1) + (1 - lam) * F.normalize(audio, dim=-1)


def nearest(z, gallery, k: int, excluded=None):
    """The k rows of gallery (N, d) nearest to each z (n, d) by cosine → (n, k) indices.

    excluded: (n, m), indices that do not count.
    """
    scores = F.normalize(z, dim=-1) @ F.normalize(gallery, dim=-1).T  # (n, N)
    if excluded is not None:
        scores = scores.scatter(1, excluded, -2.0)
    return scores.topk(k, dim=1).indices


def draw_compositions(features: dict, test_set) -> dict:
    """Figure 7, as arguments of `contact_sheet`: an image, the image whose audio is added, and the
    images nearest to the sum of their projected features.
    """
    gallery = np.flatnonzero(test_set.has_source)
    groups = np.array(test_set.groups)[gallery]
    gallery = gallery[np.unique(groups, return_index=True)[1]]  # each image once
    visual, audio = (torch.from_numpy(features[name][gallery])
                     for name in ("visual_projected", "audio_projected"))
    names = [str(test_set.labels[i] or test_set.ids[i]) for i in gallery]
    partners = torch.from_numpy(shuffled_partners(names))
    query = torch.stack([torch.arange(len(gallery)), partners], 1)[:SHEET_ROWS]  # (n, 2)
    z = compositional(visual[query[:, 0]], audio[query[:, 1]])
    neighbours = nearest(z, visual, max(0, min(NUM_NEAREST, len(gallery) - 2)), query)
    rows = torch.cat([query, neighbours], 1).tolist()
    return {"rows": [[overlay(test_set.image(int(gallery[i])), size=TILE) for i in row]
                     for row in rows],
            "columns": ["image", "whose audio is added",
                        *(f"nearest {k + 1}" for k in range(neighbours.shape[1]))],
            "captions": [f"{names[i]} + audio of {names[j]}: {', '.join(names[k] for k in rest)}"
                         for i, j, *rest in rows],
            "legend": "z = (v + a) / 2 of unit features; the image and that of the audio are "
                      "excluded"}
