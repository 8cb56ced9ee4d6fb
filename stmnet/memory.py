"""The Spatio-Temporal Memory Layer (section 3.2): attention in space f, attention in time g, and Algorithm 1.

symbol              here                 shape
x_a^t               x_a                  (B, T, C, m, n)   audio maps of T steps
x_v^t               x_v                  (B, T, C, h, w)   visual maps
x_av^t              x_av                 (B, T, C, h, w)   cross-modal maps, Eq. (1) times x_v
{x_m^k}             memory               (B, P + T, …)     the P ≤ K steps before, followed by the T steps themselves
x-hat               x_a_hat, x_av_hat    as x_a, x_av
alpha               alpha                (B, T, h, w)      over positions
beta^(k,t)          beta                 (B, T, 1 + P + T) over steps: the current one, then those of the memory
phi, K, L           phi, K, heads

There is one form for both uses: T steps at once for training, and T = 1 with the `Memory` that the step before has returned
for live use. A step sees itself and the K steps before it, so that all cuts of a sequence into calls give the same result.
"""
import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

POOLS = {"avg": partial(torch.mean, dim=(-2, -1)), "max": partial(torch.amax, dim=(-2, -1))}
SIMILARITIES = {"dot": False, "cosine": True}
ABLATIONS = {"C+U": (True, True), "U": (False, True), "none": (False, False)}  # Table 2: cross-modal memory, uni-modal memory


class Memory(NamedTuple):
    """What is kept of the last P ≤ K steps, oldest first; None where nothing is kept (at the start, or ablated)."""
    a: torch.Tensor | None = None  # (B, P, C, m, n)
    v: torch.Tensor | None = None  # (B, P, C, h, w)
    av: torch.Tensor | None = None  # (B, P, C, h, w)


EMPTY = Memory()  # before the first step


def spatial_scores(x_v, x_a, phi, cosine=False, tau=1.0):
    """x_v (…, C, h, w), x_a (…, C, m, n) → x_v(i, j) · phi(x_a) / tau (…, h, w), the exponents of Eq. (1). phi: one of POOLS.

    cosine: of vectors of length 1, so that no exponent is beyond 1 / tau; the dot product is the paper's "generic choice".
    """
    pooled = phi(x_a)
    if cosine:
        x_v, pooled = F.normalize(x_v, dim=-3), F.normalize(pooled, dim=-1)
    return torch.einsum("...chw,...c->...hw", x_v, pooled) / tau


def spatial_softmax(scores):
    """f of Eq. (1), from its exponents: scores (…, h, w) → alpha (…, h, w), which sums to 1 over the positions."""
    return scores.flatten(-2).softmax(-1).view_as(scores)  # Eq. (1)


def cross_modal(x_v, x_a, scores):
    """x_av (…, C, h, w): every channel of x_v (…, C, h, w) weighted by alpha (below Eq. (1)). scores: (x_v, x_a) → exponents."""
    alpha = spatial_softmax(scores(x_v, x_a))
    return alpha.unsqueeze(-3) * x_v


class TemporalAttention(nn.Module):
    """g of Eq. (2) for one modality: L heads, each with a query and a key projection C → C; the values are the maps themselves."""

    def __init__(self, C, heads, phi):
        super().__init__()
        self.heads, self.phi = heads, phi
        self.query, self.key = nn.Linear(C, heads * C, bias=False), nn.Linear(C, heads * C, bias=False)

    def beta(self, x, memory, K):
        """x (B, T, C, h, w), memory (B, P + T, C, h, w) → beta (B, T, 1 + P + T), which sums to 1 over the last axis.

        The first entry is beta^(t,t); of the others only those of the K steps before t are not 0.
        """
        T, S = x.shape[1], memory.shape[1]
        split = (self.heads, -1)
        pooled = self.phi(x)  # (B, T, C)
        query = self.query(pooled).unflatten(-1, split)  # (B, T, L, C)
        own, keys = (self.key(p).unflatten(-1, split) for p in (pooled, self.phi(memory)))  # (B, T, L, C), (B, S, L, C)
        own = torch.einsum("btlc,btlc->blt", query, own)[..., None]  # (B, L, T, 1)
        past = torch.einsum("btlc,bslc->blts", query, keys)  # (B, L, T, S)
        age = torch.arange(S - T, S, device=x.device)[:, None] - torch.arange(S, device=x.device)  # (T, S), in steps
        past = past.masked_fill((age < 1) | (age > K), -math.inf)
        weights = torch.cat((own, past), -1) / math.sqrt(query.shape[-1])
        return weights.softmax(-1).mean(1)  # Eq. (2)

    def forward(self, x, memory, K):
        """→ x-hat (B, T, C, h, w), the sum of the maps with the weights beta (below Eq. (2))."""
        own, past = self.beta(x, memory, K).split((1, memory.shape[1]), -1)
        return own[..., None, None] * x + torch.einsum("bts,bschw->btchw", past, memory)


class MemoryLayer(nn.Module):
    """Algorithm 1. `K` may be set anew at any time: the paper gives none, and T differs between training and evaluation.

    ablation: C+U, U or none (Table 2). phi: avg or max. av_memory: what the cross-modal memory holds of a past step, its x_av
    before its own temporal attention (pre), or that of the raw features (raw). similarity: dot or cosine. tau: see `spatial_scores`.
    """

    def __init__(self, C=256, K=3, heads=1, ablation="C+U", phi="avg", av_memory="pre", similarity="dot", tau=1.0):
        super().__init__()
        self.K, self.phi = K, POOLS[phi]
        self.scores = partial(spatial_scores, phi=self.phi, cosine=SIMILARITIES[similarity], tau=tau)
        self.cross, self.uni = ABLATIONS[ablation]
        self.raw = {"pre": False, "raw": True}[av_memory]
        if self.uni:
            self.g_a, self.g_v = TemporalAttention(C, heads, self.phi), TemporalAttention(C, heads, self.phi)
        if self.cross:
            self.g_av = TemporalAttention(C, heads, self.phi)

    def forward(self, x_a, x_v, past=EMPTY):
        """x_a (B, T, C, m, n), x_v (B, T, C, h, w), the Memory of the steps before → x_av_hat, x_a_hat, the Memory for the next.

        The work is O(K) a step where T = 1, and O(P + T), on matrices alone, where all T are given at once.
        """
        a, v, av = None, None, None
        x_a_hat, x_v_hat = x_a, x_v
        if self.uni:
            a, v = join(past.a, x_a), join(past.v, x_v)
            x_a_hat = self.g_a(x_a, a, self.K)  # Algorithm 1, line 2
            x_v_hat = self.g_v(x_v, v, self.K)  # line 3
        x_av_hat = cross_modal(x_v_hat, x_a_hat, self.scores)  # line 4
        if self.cross:
            av = join(past.av, cross_modal(x_v, x_a, self.scores) if self.raw else x_av_hat)
            x_av_hat = self.g_av(x_av_hat, av, self.K)  # line 5
        return x_av_hat, x_a_hat, Memory(*(newest(x, self.K) for x in (a, v, av)))


def join(past, x):
    """The steps before and these: (B, P, …) or None, (B, T, …) → (B, P + T, …)."""
    return x if past is None else torch.cat((past, x), 1)


def newest(x, K):
    """A copy of the last K steps of x (B, S, …), so that nothing older is kept alive; None stays None."""
    return None if x is None else x[:, max(0, x.shape[1] - K):].clone()
