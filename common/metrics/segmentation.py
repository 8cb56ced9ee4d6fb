"""Segmentation: the mIoU and F-score of AVSBench, also used by sslalign (Table XIII)."""
import torch

from .arrays import check_maps, portable, tensor
from .localization import mean


@portable
def mask_iou(pred, gt):
    """|pred ∩ gt| / |pred ∪ gt|, or the share of pixels outside pred if gt is empty.

    AVSBench's IoU, masks (N, H, W) twice → (N,)."""
    pred, gt = (x > 0 for x in check_maps(pred=pred, gt=gt))
    plain = (pred & gt).sum(1).double() / (pred | gt).sum(1).clamp(min=1)
    return torch.where(gt.any(1), plain, 1 - pred.sum(1).double() / pred.shape[1])


def mask_miou(pred, gt):
    """The mean of `mask_iou`."""
    return mean(mask_iou(pred, gt))


@portable
def f_curves(prob, gt, beta2=0.3):
    """F-scores of probabilities (N, H, W) and gt masks (N, H, W) at 255 thresholds → (N, 255).

        F = (1 + β²) · P · R / (β² · P + R),   P = |pred ∩ gt| / |pred|,   R = |pred ∩ gt| / |gt|

    pred = {prob >= t}, t in linspace(0, 1, 255), β² = 0.3. NaN where gt is empty."""
    prob, gt = check_maps(prob=prob, gt=gt)
    # As published: the last of the thresholds is 1.0 in float32.
    thresholds = torch.linspace(0, 1 - 1e-10, 255, device=prob.device)
    reached = torch.bucketize(prob.float(), thresholds, right=True)  # (N, n): how many each reaches
    cells = (256 * torch.arange(len(prob), device=prob.device)[:, None] + reached).flatten()

    def at_least(weights):  # (N, n) → (N, 255): the sum over the pixels that reach each threshold
        sums = torch.bincount(cells, weights.flatten(), 256 * len(prob)).view(-1, 256)
        return sums.flip(1).cumsum(1).flip(1)[:, 1:]
    gt = (gt > 0).double()
    hits, area = at_least(gt), gt.sum(1, keepdim=True)
    precision, recall = hits / at_least(torch.ones_like(gt)).clamp(min=1), hits / area
    f = (1 + beta2) * precision * recall / (beta2 * precision + recall).clamp(min=1e-30)
    return torch.where(area > 0, f, torch.nan)


def best_f(curves):
    """F = maxₜ mean over samples of F(t), curves (N, 255); NaN if no sample has a gt.

    AVSBench's code takes the best threshold of every mini-batch, so its result changes with the
    batch size. Here, as in ACL-SSL's correction, curves of all batches are concatenated before."""
    return float(torch.as_tensor(tensor(curves)).nanmean(0).max())


def f_score(prob, gt, beta2=0.3):
    """AVSBench's F (β² = 0.3) of probabilities or masks: `best_f` of `f_curves`."""
    return best_f(f_curves(prob, gt, beta2))
