"""Grouped vector quantisation with moving averages: Eq. (4), and Eq. (8) (van den Oord et al. 2017, appendix A.1).

symbol    here              shape
f         x                 (B, d)               the projected text and audio vectors, all of a step in one call
Ψ_i       codes[i]          (codes, d / groups)  each group has its own book
q         groups
β         beta

What a step chose is summed over all processes, so n processes move the codes as one process with the whole batch would.
"""
import torch
from torch import nn

from common.training import dist

DEAD = 0.1  # a code is dead when its average count is below this part of what an equal share would be


class GroupedCodebook(nn.Module):
    """`groups` books of `codes` vectors of length dim / groups; `dim` is the whole d.

    In training the codes follow their inputs by exponential moving averages of count and sum, bias-corrected, with Laplace
    smoothing of the counts; all of it is kept in buffers, so a resumed run continues exactly. The averages start at zero
    and replace the codes, so after the first step a code that no input ever chose is the zero vector, in the released code
    as here. That is a reserve: the first of these codes takes the inputs that are nearer to zero than to any other code.
    Codes that keep their random value until they are chosen stay unused: on synthetic clusters, two books of 256 × 128 ended
    with a third of the perplexity.

    With `revive`, dead codes are put onto those inputs of the global batch that lie farthest from their codes. This draws
    no random numbers. At the first step it initialises the books from data, because nearly all codes are dead then.
    """

    def __init__(self, groups: int, codes: int, dim: int, decay: float = 0.99, beta: float = 0.25, eps: float = 1e-5,
                 revive: bool = False):
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} is not a multiple of groups {groups}")
        self.groups, self.decay, self.beta, self.eps, self.revive = groups, decay, beta, eps, revive
        self.register_buffer("codes", torch.randn(groups, codes, dim // groups))
        self.register_buffer("average_count", torch.zeros(groups, codes))  # not bias-corrected, as is the sum
        self.register_buffer("average_sum", torch.zeros(groups, codes, dim // groups))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """(B, dim) → quantised (B, dim) with a straight-through gradient, loss (), info.

        The loss is the β term of Eq. (8), averaged over elements: this process's share of it in training (see common.dist).
        The first term has no gradient where averages move the codes, and is left out. info holds `indices` (B, groups), and
        `counts` (groups, codes) and `perplexity` (groups,) of the batch: of all processes in training. In eval mode nothing
        is summed over processes, for they may then have different numbers of batches.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            parts = x.detach().unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, B, d / groups)
            # |x - c|² without |x|², which no choice changes; of equal distances the first wins
            distance = self.codes.square().sum(2).unsqueeze(1) - 2 * parts @ self.codes.transpose(1, 2)
            indices = distance.argmin(2)  # (groups, B)
            quantised = self.lookup(indices.T)
            chosen = (indices.unsqueeze(2) == torch.arange(self.codes.shape[1], device=x.device)).float()  # (groups, B, codes)
            sums = chosen.transpose(1, 2) @ nn.functional.pad(parts, (0, 1), value=1.)  # the last column counts
            if self.training:
                sums = dist.all_sum(sums)
            counts = sums[..., -1]  # (groups, codes)
            rows = counts[0].sum()
            loss = self.beta * (x - quantised).square().sum() / (rows * x.shape[1])  # Eq. (8)
            if self.training:
                self._update(counts, sums[..., :-1])
                if self.revive:
                    self._revive(x.detach(), quantised)
            perplexity = torch.special.entr(counts / rows).sum(1).exp()
            # x - x is 0: the value is the code to the bit, the gradient is x's
            return quantised + (x - x.detach()), loss, {"indices": indices.T, "counts": counts, "perplexity": perplexity}

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """(B, groups) → (B, dim), the codes of each group side by side."""
        return self.codes[torch.arange(self.groups, device=indices.device), indices].flatten(1)

    @torch.no_grad()
    def _update(self, counts: torch.Tensor, sums: torch.Tensor) -> None:
        self.steps += 1
        self.average_count.lerp_(counts, 1 - self.decay)
        self.average_sum.lerp_(sums, 1 - self.decay)
        correction = 1 - self.decay ** self.steps
        size = self.average_count / correction  # (groups, codes)
        rows = size.sum(1, keepdim=True)
        smooth = (size + self.eps) / (rows + size.shape[1] * self.eps) * rows
        self.codes.copy_(self.average_sum / (correction * smooth).unsqueeze(2))

    @torch.no_grad()
    def _revive(self, x: torch.Tensor, quantised: torch.Tensor) -> None:
        x, quantised = dist.gather_rows(torch.cat([x, quantised], 1)).unflatten(1, (2, self.groups, -1)).unbind(1)
        far = (x - quantised).square().sum(2).argsort(dim=0, descending=True, stable=True).T  # (groups, N)
        few = self.average_count.argsort(dim=1, stable=True)  # (groups, codes)
        n = min(far.shape[1], few.shape[1])  # the least used code gets the farthest input, and so on
        group, far, few = torch.arange(self.groups, device=x.device).unsqueeze(1), far[:, :n], few[:, :n]
        limit = DEAD * self.average_count.mean(1, keepdim=True)  # (groups, 1)
        dead = self.average_count[group, few] < limit  # (groups, n)
        new_code = x[far, group]  # (groups, n, d / groups)
        new_count = (2 * limit).expand(-1, n)  # no more: a revived code that nobody chooses is soon replaced again
        for average, new in ((self.codes, new_code), (self.average_sum, new_count.unsqueeze(2) * new_code),
                             (self.average_count, new_count)):
            mask = dead.view(*dead.shape, *[1] * (average.dim() - 2))
            average[group, few] = torch.where(mask, new, average[group, few])
