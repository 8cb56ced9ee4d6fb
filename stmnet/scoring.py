"""What is done with the outputs of the network: statistics of β, boxes, proposals (3.3)."""
import torch
import torch.nn.functional as F

from common.evaluation.frames import SIZE

from .backbones.rois import nms


def beta_statistics(beta):
    """beta (T, 1 + S), its first entry β^(t,t) → (T, 2): weight of the past, entropy relative
    to that of equal weights; NaN where there is no past."""
    entropy = -torch.special.xlogy(beta, beta).sum(1) / (beta > 0).sum(1).log()  # 0 / 0: NaN
    return torch.stack([1 - beta[:, 0], entropy], 1).float().cpu()


def ground_proposals(proposals, alpha, config):
    """The proposals of one frame, scored by its localization map, section 3.3.

        Sₙᵗ = Σᵢⱼ mₙᵗ(i,j) α̂ₐᵥᵗ(i,j),   mₙᵗ the mask of box n, its edges rounded to pixels

    proposals (N, 4) in [0, 1], alpha (SIZE, SIZE), which sums to 1 → at most config.grounded boxes
    with their Sₙ (…, 5), best first, after NMS."""
    table = F.pad(alpha.double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # [y, x]: sum of alpha[:y, :x]
    x0, y0, x1, y1 = (proposals * SIZE).round().long().clamp(0, SIZE).T
    S = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]  # (N,)
    best = nms(proposals, S, config.nms, most=config.grounded)
    return torch.cat([proposals[best], S[best, None].float()], 1)
