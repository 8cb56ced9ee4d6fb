"""The one loss: cross-entropy of the label at every step of a clip (section 3.4)."""
import torch
import torch.nn.functional as F


def losses(logits: torch.Tensor, labels: torch.Tensor, clips: int) -> dict:
    """logits (B, T, classes) of this process's B of all `clips` clips, labels (B, T) → this process's shares of global means:
    {"loss", "accuracy"}. The paper has "the" cross-entropy of a segment: the mean over its T steps."""
    count = clips * labels.shape[1]
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum") / count
    return {"loss": loss, "accuracy": (logits.argmax(-1) == labels).sum().detach() / count}
