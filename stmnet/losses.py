"""The loss of section 3.4: cross-entropy of the event category of a clip.

symbol     here      shape
MLP(Oᵗ)    logits    (B, T, classes)   see model.py
yᵗ         labels    (B, T)            the event category at step t

B clips, T steps, which in the paper all have the label of the clip.

>>> logits = torch.tensor([[[0.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]])  # of 2 clips
>>> event_loss(logits, labels=torch.tensor([[1, 1], [0, 0]])).round(decimals=3)
tensor([0.3470, 0.0000])
>>> event_accuracy(logits, labels=torch.tensor([[1, 1], [0, 1]]))
tensor([0.5000, 0.5000])
"""
import torch
import torch.nn.functional as F


def event_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the event category, section 3.4, of each clip.

        L = −1/T Σₜ log softmax(MLP(Oᵗ))[yᵗ]

    logits (B, T, classes), labels (B, T) → (B,). The paper has one cross-entropy for a segment and
    does not say how its T steps are joined; here it is their mean.
    """
    steps = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return steps.view_as(labels).mean(1)


def event_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of a clip's steps whose label has the greatest logit: (B,)."""
    return (logits.argmax(-1) == labels).float().mean(1)
