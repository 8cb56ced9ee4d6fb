"""The loss of section 3.4: cross-entropy of the event category of a clip.

symbol     here      shape
MLP(Oᵗ)    logits    (B, T, classes)   see model.py
yᵗ         labels    (B, T)            the event category at step t

B clips, T steps, which in the paper all have the label of the clip.

>>> logits = torch.tensor([[[0.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]])  # of 2 clips
>>> event_loss(logits, labels=torch.tensor([[1, 1], [0, 0]]), of_clip=False).round(decimals=3)
tensor([0.3470, 0.0000])
>>> event_loss(logits, labels=torch.tensor([[1, 1], [0, 0]]), of_clip=True).round(decimals=3)
tensor([0., 0.])
>>> event_accuracy(logits, labels=torch.tensor([[1, 1], [0, 1]]), of_clip=False)
tensor([0.5000, 0.5000])
"""
import torch
import torch.nn.functional as F


def clip_logits(logits, labels) -> tuple:
    """One step for a clip, as in the authors' code: the maximum over T of each logit."""
    return logits.amax(1, keepdim=True), labels[:, :1]


def event_loss(logits: torch.Tensor, labels: torch.Tensor, of_clip: bool) -> torch.Tensor:
    """Cross-entropy of the event category, section 3.4, of each clip.

        L = −log softmax(maxₜ MLP(Oᵗ))[y]          if labels are of the clip: yᵗ = y
        L = −1/T Σₜ log softmax(MLP(Oᵗ))[yᵗ]       if they are of steps

    logits (B, T, classes), labels (B, T) → (B,). The paper does not say how T steps are joined."""
    if of_clip:
        logits, labels = clip_logits(logits, labels)
    steps = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return steps.view_as(labels).mean(1)


def event_accuracy(logits: torch.Tensor, labels: torch.Tensor, of_clip: bool) -> torch.Tensor:
    """The share of a clip's steps, or of its one label, that has the greatest logit: (B,)."""
    if of_clip:
        logits, labels = clip_logits(logits, labels)
    return (logits.argmax(-1) == labels).float().mean(1)
