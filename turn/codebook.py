"""Grouped vector quantisation with moving averages: Eqs. (4) and (8) of sections 3.4 and 3.5.

symbol    here              shape
f, t̄, ā   x                 (N, d)           text and audio vectors of a step, t and a of model.py
Ψ_i       codes[i]          (codes, d/q)     the codebook of group i
ť, ǎ      quantised         (N, d)           the query conditions, `q` in Eq. (1)
q         groups                             the number of groups, as in the shapes below
β         beta

Codes are moving averages of the inputs that chose them (van den Oord et al. 2017, appendix A.1).
Counts and sums are of all processes, so that n processes give the codes of one with all the batch.

>>> book = GroupedCodebook(groups=2, codes=16, dim=8).eval()
>>> quantised, loss, info = book(torch.zeros(3, 8))
>>> quantised.shape, info["indices"].shape
(torch.Size([3, 8]), torch.Size([3, 2]))
"""
import torch
from torch import nn

from common.training import dist


def commitment(x, quantised, beta: float):
    """The commitment, which is the second term of Eq. (8), section 3.5.

        L_code = ‖sg[f] − Ψ(f)‖₂² + β ‖f − sg[Ψ(f)]‖₂²

    The first term only moves codes; moving averages do that here. x, quantised: (N, d). Returns
    β (f − sg[Ψ(f)])² of each element, (N, d)."""
    return beta * (x - quantised.detach()).square()


class GroupedCodebook(nn.Module):
    """`groups` codebooks of `codes` vectors of length `dim` / `groups`; `dim` is d.

    In training the codes are bias-corrected moving averages of their inputs, with Laplace smoothing
    of the counts. The averages start at zero: a code that was never chosen becomes the zero vector,
    as in the authors' code."""

    def __init__(self, groups: int, codes: int, dim: int, decay: float = 0.99, beta: float = 0.25,
                 eps: float = 1e-5):
        super().__init__()
        self.groups, self.decay, self.beta, self.eps = groups, decay, beta, eps
        self.register_buffer("codes", torch.randn(groups, codes, dim // groups))
        self.register_buffer("average_count", torch.zeros(groups, codes))  # not bias-corrected
        self.register_buffer("average_sum", torch.zeros(groups, codes, dim // groups))  # neither
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Each part of x is replaced by the nearest code of its group, Eq. (4).

            ť = [Ψ_1(t̄_1); …; Ψ_q(t̄_q)],   Ψ_i(t̄_i) = argmin_c ‖t̄_i − c‖₂ over group i's codes c

        ǎ likewise. x: (N, d). Returns quantised (N, d) with a straight-through gradient, the loss
        (N, d) of `commitment`, and info: `indices` (N, q), `counts` (q, codes). Counts are of all
        processes in training, of this process's batch in eval mode."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            parts = x.detach().unflatten(1, (self.groups, -1)).transpose(0, 1)  # (q, N, d/q)
            # |x - c|² without |x|², which changes no choice; the first of equal distances wins
            square = self.codes.square().sum(2).unsqueeze(1)  # (q, 1, codes)
            indices = (square - 2 * parts @ self.codes.transpose(1, 2)).argmin(2)  # (q, N)
            quantised = self.codes[torch.arange(self.groups, device=x.device), indices.T].flatten(1)
            one_hot = indices.unsqueeze(2) == torch.arange(self.codes.shape[1], device=x.device)
            with_ones = nn.functional.pad(parts, (0, 1), value=1.)  # the last column counts
            sums = one_hot.float().transpose(1, 2) @ with_ones  # (q, codes, d/q + 1)
            if self.training:
                sums = dist.all_sum(sums)
            counts = sums[..., -1]  # (q, codes)
            loss = commitment(x, quantised, self.beta)
            if self.training:
                self._update(counts, sums[..., :-1])
            # x - x is 0: the value is the code to the bit, the gradient is x's
            return quantised + (x - x.detach()), loss, {"indices": indices.T, "counts": counts}

    @torch.no_grad()
    def _update(self, counts: torch.Tensor, sums: torch.Tensor) -> None:
        """One step of the moving averages: counts (q, codes), sums (q, codes, d/q) of the batch."""
        self.steps += 1
        self.average_count.lerp_(counts, 1 - self.decay)
        self.average_sum.lerp_(sums, 1 - self.decay)
        correction = 1 - self.decay ** self.steps
        size = self.average_count / correction  # (q, codes)
        rows = size.sum(1, keepdim=True)
        smooth = (size + self.eps) / (rows + size.shape[1] * self.eps) * rows  # (q, codes)
        self.codes.copy_(self.average_sum / (correction * smooth).unsqueeze(2))


def normalised_mutual_information(x, y) -> float:
    """2 I(x; y) / (H(x) + H(y)) of two lists of labels (N,); 1 if each tells the other."""
    counts = torch.zeros(int(x.max()) + 1, int(y.max()) + 1)  # of pairs
    p = counts.index_put_((x, y), torch.ones(len(x)), accumulate=True) / len(x)
    h_x, h_y, h_xy = (torch.special.entr(q).sum() for q in (p.sum(1), p.sum(0), p))
    return float(2 * (h_x + h_y - h_xy) / (h_x + h_y).clamp(min=1e-9))


def report_agreement(book, phrases, captions, audio, labels) -> dict:
    """Whether text and audio of one meaning get the same codes, which Eq. (7) aims at.

    phrases (P, d), captions and audio (N, d), pair by pair, before the codebooks; labels: (N,) the
    class of each pair, -1 for none; or None. agreement_i: pairs on the same code of group i,
    agreement: of all groups, chance: of exchanged pairs. overlap_i: Σ_c min of the shares of the
    three kinds on code c. in_use_i, perplexity_i: of all three. nmi: of audio's codes with classes.
    """
    vectors = (x.to(book.codes.device) for x in (phrases, captions, audio))
    phrase, caption, sound = (book(x)[2]["indices"].cpu() for x in vectors)  # (·, q)
    n, same = book.codes.shape[1], caption == sound
    report = {"agreement": same.all(1).float().mean().item(),
              "chance": (caption == sound.roll(len(sound) // 2, 0)).all(1).float().mean().item()}
    for i in range(book.groups):
        p = torch.stack([torch.bincount(x[:, i], minlength=n) / len(x)
                         for x in (phrase, caption, sound)])  # (3, codes)
        report |= {f"agreement_{i}": same[:, i].float().mean().item(),
                   f"overlap_{i}": p.amin(0).sum().item(),
                   f"in_use_{i}": int((p.amax(0) > 0).sum()),
                   f"perplexity_{i}": torch.special.entr(p.mean(0)).sum().exp().item()}
    if labels is not None:
        joint = torch.unique(sound, dim=0, return_inverse=True)[1]  # all groups as one label
        has_class = labels >= 0
        report["nmi"] = normalised_mutual_information(joint[has_class], labels[has_class])
    return {f"codebook/{key}": value for key, value in report.items()}
