"""The one loss: cross-entropy of the clip's label at every one of its steps (section 3.4)."""
import torch
import torch.nn.functional as F


def losses(logits: torch.Tensor, labels: torch.Tensor, clips: int) -> dict:
    """logits (B, T, classes) of this process's B of all `clips` clips, labels (B,) → this process's shares of global means:
    {"loss", "accuracy"}, the latter over steps. The paper has "the" cross-entropy of a segment: the mean over its T steps."""
    B, T, _ = logits.shape
    target = labels[:, None].expand(B, T)
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="sum") / (clips * T)
    return {"loss": loss, "accuracy": (logits.argmax(-1) == target).sum().detach() / (clips * T)}
