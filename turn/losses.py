"""TURN's losses, Eqs. (6) to (10) of section 3.5, as functions of whole batches.

symbol        here          shape
b̂, b          box, gt       (b_s, 4)          predicted and annotated box: cx, cy, w, h in [0, 1]
t̄, ā          t, a          (b, d)            of the intermediate domain, before the codebooks
τ_c           tau
T̃, T          words, tokens (B, L_t, |V|), (B, L_t)    text: logits, word indices
Ã, A          audio, logmel (B, L_m, c)       log-mel: reconstructed, and given (after SpecAugment)
λ_1 … λ_5     config.lambda_reg, _iou, _code, _recon, _contra

Each function returns one loss for each sample, coordinate, word or frame. train.py: loss_terms
takes the means, for Eq. (9) over masked positions only. Eq. (8) is in codebook.py.

>>> box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
>>> box_overlap(box, box + 0.1).round(decimals=2)
tensor([0.7800])
"""
import torch
import torch.nn.functional as F


def corners(box):
    """(…, 4) cx, cy, w, h → x0, y0, x1, y1."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def giou(a, b):
    """Generalised IoU of boxes (Rezatofighi et al. 2019); C is the smallest box that holds both.

        GIoU = |a ∩ b| / |a ∪ b| − (|C| − |a ∪ b|) / |C|

    a, b: (…, 4), x0, y0, x1, y1. Returns (…,) in [-1, 1], with a gradient."""
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inter = overlap.clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = sum((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)) - inter
    return inter / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def box_regression(box, gt):
    """L_reg of Eq. (6), the smooth l1 losses of the coordinates, summed.

        L_reg(b̂, b) = Σ ½ (b̂ᵢ − bᵢ)²  where |b̂ᵢ − bᵢ| < 1, else |b̂ᵢ − bᵢ| − ½

    box, gt: (b_s, 4). Returns (b_s,), the loss of each box."""
    return F.smooth_l1_loss(box, gt, reduction="none").sum(1)


def box_overlap(box, gt):
    """L_iou of Eq. (6).

        L_iou(b̂, b) = 1 − GIoU(b̂, b)

    box, gt: (b_s, 4). Returns (b_s,), the loss of each box."""
    return 1 - giou(corners(box), corners(gt))


def contrast(t, a, tau: float):
    """InfoNCE between captions and audio, Eq. (7), negated: the paper prints what is maximised.

        L_contra = −1/b Σᵢ log( exp(D(t̄ᵢ, āᵢ)/τ_c) / Σⱼ exp(D(t̄ᵢ, āⱼ)/τ_c) ),  D: cosine

    t, a: (b, d), row i of one belongs to row i of the other. Returns (b,), the loss of each row."""
    t, a = F.normalize(t.float(), dim=-1), F.normalize(a.float(), dim=-1)
    return F.cross_entropy(t @ a.T / tau, torch.arange(len(t), device=t.device), reduction="none")


def text_reconstruction(words, tokens):
    """L_recon^t of Eq. (9).

        L_recon^t = L_ce(T̃, T) = −log softmax(T̃)[T]

    words: (B, L_t, |V|), tokens: (B, L_t). Returns (B, L_t), the loss of each word."""
    loss = F.cross_entropy(words.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return loss.view(tokens.shape)


def audio_reconstruction(audio, logmel):
    """L_recon^a of Eq. (9).

        L_recon^a = L_l1(Ã, A) = 1/c ‖Ã − A‖₁

    audio, logmel: (B, L_m, c). Returns (B, L_m), the loss of each frame."""
    return (audio.float() - logmel).abs().mean(-1)


def total(terms: dict, config):
    """The overall loss L = L_loc + L_aln, end of section 3.5; `terms` are scalars.

        L_loc = λ_1 L_reg + λ_2 L_iou                                            Eq. (6)
        L_aln = λ_3 L_code + λ_4 (L_recon^a + L_recon^t) + λ_5 L_contra          Eq. (10)
    """
    c = config
    return (c.lambda_reg * terms["reg"] + c.lambda_iou * terms["iou"]
            + c.lambda_code * terms["code"] + c.lambda_contra * terms["contra"]
            + c.lambda_recon * terms["recon_text"] + c.lambda_recon * terms["recon_audio"])
