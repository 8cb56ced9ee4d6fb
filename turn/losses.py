"""TURN's five loss terms, Eqs. (6) to (10).

Each function returns this process's share of the mean over all processes (see common/dist.py), so that shares add up.
"""
import torch
import torch.nn.functional as F

from common.training import dist


def corners(box):
    """(…, 4) cx, cy, w, h → x0, y0, x1, y1."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def giou(a, b):
    """Generalised IoU of boxes (…, 4) as x0, y0, x1, y1 (Rezatofighi et al. 2019): (…,) in [-1, 1].

    The metric of that name checks its input, which makes a GPU wait, and has no gradient.
    """
    inter = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = sum((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)) - inter
    return inter / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def mean_share(values, mask=None):
    """This process's sum of `values` (where `mask`) over the number of them in all processes."""
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    count = dist.all_sum(mask.sum().to(values.dtype)).clamp(min=1)
    return (values * mask).sum() / count


def localization(box, truth):
    """L_reg (smooth l1) and L_iou (GIoU) of Eq. (6); box and truth (B, 4) as cx, cy, w, h."""
    reg = mean_share(F.smooth_l1_loss(box, truth, reduction="none"))
    return reg, mean_share(1 - giou(corners(box), corners(truth)))


def contrast(t, a, tau: float, direction: str = "t2a"):
    """InfoNCE of Eq. (7), as a loss: the printed sign is a likelihood's. t and a (B, d), row i of one belongs to row i
    of the other; the denominator runs over the batch of all processes."""
    t, a = F.normalize(t.float(), dim=-1), F.normalize(a.float(), dim=-1)
    own = torch.arange(len(t), device=t.device) + dist.first_row(t)
    terms = []
    if direction != "a2t":
        terms.append(F.cross_entropy(t @ dist.gather_rows(a).T / tau, own, reduction="none"))  # Eq. (7)
    if direction != "t2a":
        terms.append(F.cross_entropy(a @ dist.gather_rows(t).T / tau, own, reduction="none"))
    return mean_share(torch.stack(terms).mean(0))


def reconstruct_text(words, tokens, hidden):
    """Cross-entropy of Eq. (9) over the hidden words: (B, L, V), (B, L), (B, L)."""
    return mean_share(F.cross_entropy(words.flatten(0, 1).float(), tokens.flatten(), reduction="none"), hidden.flatten())


def reconstruct_audio(sound, logmel, hidden):
    """l1 of Eq. (9) over the hidden frames: (B, L, c), (B, L, c), (B, L)."""
    return mean_share((sound.float() - logmel).abs().mean(-1), hidden)


def losses(output, batch, config) -> dict:
    """All terms, unweighted, and `loss`, the weighted sum of Eqs. (6) and (10)."""
    terms = {}
    terms["reg"], terms["iou"] = localization(output.box, batch["box"])
    terms["code"] = output.code_loss
    terms["contra"] = contrast(output.t, output.a, config.tau, config.contrast)
    zero = output.box.new_zeros(())
    terms["recon_text"], terms["recon_audio"] = zero, zero
    if output.words_s is not None:
        terms["recon_text"] = reconstruct_text(output.words_s, batch["tokens_s"], batch["hidden_s"])
    if output.words_m is not None:
        terms["recon_text"] = terms["recon_text"] + reconstruct_text(output.words_m, batch["tokens_m"], batch["hidden_m"])
        terms["recon_audio"] = reconstruct_audio(output.sound, batch["logmel"], batch["hidden_a"])
    weights = {"reg": config.lambda_reg, "iou": config.lambda_iou, "code": config.lambda_code, "contra": config.lambda_contra,
               "recon_text": config.lambda_recon, "recon_audio": config.lambda_recon}
    return {"loss": sum(weights[k] * v for k, v in terms.items()), **terms}  # L = L_loc + L_aln
