"""Contact sheets of an evaluation: maps over pictures, and compositional retrieval. Each is the arguments of
common.io.contact_sheet but the path, as a dict."""
import numpy as np
import torch
import torch.nn.functional as F

from common import metrics
from common.io import overlay

from .score import SIZE
from .sets import others

SHOWN = 8  # rows
NEAREST = 5
TILE = (144, 144)
LEGEND = "lime: the truth · map: from dark violet, its least, to pale yellow, its greatest"
HEADINGS = {"model": "map", "shuffled": "map, another sample's sound", "silent": "map, silence"}


def samples(answer, test) -> dict:
    """Interactive sets: a row for each picture, with truth and map of each of its sounds. Others: a row for each of the first
    samples that sound, with the maps of its own sound and of the controls. answer: see evaluate.Predictor.on."""
    interactive, members = "interactive" in test.feeds, {}
    for i in np.flatnonzero(test.sounding):
        members.setdefault(test.groups[i] if interactive else i, []).append(int(i))
    rows, captions, headings = [], [], []
    for own in list(members.values())[:SHOWN]:
        row, columns = [], []
        maps = {kind: metrics.normalise(metrics.resize(x, SIZE, aligned=test.aligned)) for kind, x in answer(own)[0].items()
                if kind in (HEADINGS if not interactive else ("model",))}
        for k, i in enumerate(own):
            image, number = test.image(i), f" {k + 1}" if interactive else ""
            row += [overlay(image, truth=test.truth(i), size=TILE), *(overlay(image, x[k], size=TILE) for x in maps.values())]
            columns += [f"truth{number}", *(HEADINGS[kind] + number for kind in maps)]
        rows.append(row)
        headings = max(headings, columns, key=len)
        captions.append(" | ".join(str(test.labels[i] or test.ids[i]) for i in own))
    return {"rows": rows, "columns": headings, "captions": captions, "legend": LEGEND}


def compositional(visual, audio, lam=0.5):
    """z = lambda v + (1 - lambda) a of unit vectors, (n, d) twice → (n, d): a picture, changed by a sound (4.4)."""
    return lam * F.normalize(visual, dim=-1) + (1 - lam) * F.normalize(audio, dim=-1)


def nearest(z, gallery, k, left_out=None):
    """The k nearest by cosine of gallery (N, d) to each z (n, d) → (n, k) indices, without those in left_out (n, m)."""
    scores = F.normalize(z, dim=-1) @ F.normalize(gallery, dim=-1).T  # (n, N)
    if left_out is not None:
        scores = scores.scatter(1, left_out, -2.0)
    return scores.topk(k, dim=1).indices


def compositions(features, test) -> dict:
    """Figure 7: a picture, the picture whose sound is added, and the nearest pictures to the sum of both projected features."""
    gallery = np.flatnonzero(test.sounding)
    gallery = gallery[np.unique(np.array(test.groups)[gallery], return_index=True)[1]]  # each picture once
    visual, audio = (torch.from_numpy(features[name][gallery]) for name in ("visual_projected", "audio_projected"))
    names = [str(test.labels[i] or test.ids[i]) for i in gallery]
    asked = torch.stack([torch.arange(len(gallery)), torch.from_numpy(others(names))], 1)[:SHOWN]  # (n, 2): picture, sound
    z = compositional(visual[asked[:, 0]], audio[asked[:, 1]])
    found = nearest(z, visual, max(0, min(NEAREST, len(gallery) - 2)), asked)
    rows = torch.cat([asked, found], 1).tolist()
    return {"rows": [[overlay(test.image(int(gallery[i])), size=TILE) for i in row] for row in rows],
            "columns": ["picture", "whose sound is added", *(f"nearest {k + 1}" for k in range(found.shape[1]))],
            "captions": [f"{names[i]} + the sound of {names[j]}: {', '.join(names[k] for k in rest)}" for i, j, *rest in rows],
            "legend": "z = (v + a) / 2 of unit features; the picture and the sound's own are left out"}
