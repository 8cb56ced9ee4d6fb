"""The spatio-temporal memory layer, section 3.2: Eq. (1), Eq. (2) and Algorithm 1.

symbol         here              shape
xₐᵗ            x_a               (B, T, C, m, n)    audio feature maps
xᵥᵗ            x_v               (B, T, C, h, w)    visual feature maps
xₐᵥᵗ           x_av              (B, T, C, h, w)    audio-visual feature maps, α · xᵥ
{xᵏ}           memory            (B, P + T, …)      maps of the P ≤ K steps before, then of these T
x̂ₐ, x̂ᵥ, x̂ₐᵥ    x_a_hat, …        as xₐ, xᵥ, xₐᵥ     after temporal attention
αₐᵥᵗ           alpha             (B, T, h, w)       sums to 1 over the positions
βₘ^(k,t)       beta              (B, T, 1 + P + T)  sums to 1 over the steps: t itself, then memory
φ, K, L        phi, K, heads                        global pooling, past steps, attention heads

B clips, T steps, C channels, h × w and m × n positions of a visual and an audio map. Training
passes T steps at once, live use one step and the `Memory` that the last call returned. Both give
the same result, since a step attends to itself and the K steps before it and no other.

>>> layer = MemoryLayer(C=4, K=2)
>>> x_a, x_v = torch.rand(1, 5, 4, 3, 2), torch.rand(1, 5, 4, 6, 6)
>>> output = layer(x_a, x_v)
>>> output.x_av_hat.shape, output.x_a_hat.shape
(torch.Size([1, 5, 4, 6, 6]), torch.Size([1, 5, 4, 3, 2]))
>>> output.memory.av.shape  # the last K = 2 steps
torch.Size([1, 2, 4, 6, 6])
"""
import math
from typing import NamedTuple

import torch
from torch import nn

ABLATIONS = {"C+U": (True, True), "U": (False, True), "none": (False, False)}  # Table 2: C, U


class Memory(NamedTuple):
    """Maps of the last P ≤ K steps, oldest first; None at the start and where none is kept."""
    a: torch.Tensor | None = None  # (B, P, C, m, n)
    v: torch.Tensor | None = None  # (B, P, C, h, w)
    av: torch.Tensor | None = None  # (B, P, C, h, w)


EMPTY = Memory()  # before the first step


class LayerOutput(NamedTuple):
    x_av_hat: torch.Tensor  # (B, T, C, h, w)
    x_a_hat: torch.Tensor  # (B, T, C, m, n)
    scores: torch.Tensor  # (B, T, h, w), the exponents of the first f, line 4
    betas: dict  # "a", "v", "av" → (B, T, 1 + P + T), of the memories that there are
    memory: Memory  # for the steps after


def phi(x):
    """φ of Eqs. (1) and (2): the maximum over the positions, (…, C, h, w) → (…, C)."""
    return x.amax((-2, -1))


def spatial_scores(x_v, x_a, temperature=1.0):
    """The exponents of Eq. (1), section 3.2, over a temperature, which is 1 in the paper.

        s(i,j) = xᵥᵗ(i,j) φ(xₐᵗ)ᵀ / temperature

    x_v (…, C, h, w), x_a (…, C, m, n) → (…, h, w)."""
    return torch.einsum("...chw,...c->...hw", x_v, phi(x_a)) / temperature


def spatial_softmax(scores):
    """The spatial attention f, Eq. (1) of section 3.2, from its exponents s.

        f(xᵥᵗ, xₐᵗ) = αₐᵥᵗ,   αₐᵥᵗ(i,j) = exp s(i,j) / Σᵢⱼ exp s(i,j)

    scores (…, h, w) → alpha (…, h, w), which sums to 1 over the positions."""
    return scores.flatten(-2).softmax(-1).view_as(scores)


class TemporalAttention(nn.Module):
    """The temporal attention g of one modality m ∈ {a, v, av}, Eq. (2) of section 3.2.

        βₘ^(k,t) = 1/L Σₗ softmaxₖ( φ(xₘᵗ) W_l^query (φ(xₘᵏ) W_l^key)ᵀ / √C )
        x̂ₘᵗ = βₘ^(t,t) xₘᵗ + Σₖ βₘ^(k,t) xₘᵏ,   Σₖ over the K steps before t, softmaxₖ over t too

    Each of the L heads has a query and a key projection C → C. The values are the maps themselves.
    """

    def __init__(self, C, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(C, heads * C, bias=False)
        self.key = nn.Linear(C, heads * C, bias=False)

    def products(self, x, memory):
        """The exponents of Eq. (2): x (B, T, C, h, w), memory (B, S, C, h, w) → of each step with
        itself (B, L, T, 1), and with each step of memory (B, L, T, S)."""
        pooled = phi(x)  # (B, T, C)
        query = self.query(pooled).unflatten(-1, (self.heads, -1))  # (B, T, L, C)
        key = self.key(pooled).unflatten(-1, (self.heads, -1))  # (B, T, L, C)
        memory_key = self.key(phi(memory)).unflatten(-1, (self.heads, -1))  # (B, S, L, C)
        present = torch.einsum("btlc,btlc->blt", query, key)[..., None]  # (B, L, T, 1)
        past = torch.einsum("btlc,bslc->blts", query, memory_key)  # (B, L, T, S)
        return present / math.sqrt(query.shape[-1]), past / math.sqrt(query.shape[-1])

    def beta(self, x, memory, K):
        """x (B, T, C, h, w), memory (B, P + T, C, h, w) → beta (B, T, 1 + P + T).

        The first entry is β^(t,t). The rest is 0 but for the K steps before t."""
        present, past = self.products(x, memory)
        T, S = past.shape[-2:]  # S = P + T
        step = torch.arange(S, device=x.device)
        age = step[S - T:, None] - step  # (T, S), steps from each of memory to each of x
        past = past.masked_fill((age < 1) | (age > K), -math.inf)
        return torch.cat((present, past), -1).softmax(-1).mean(1)

    def forward(self, x, memory, K):
        """x (B, T, C, h, w), memory (B, P + T, C, h, w) → x̂ (B, T, C, h, w), beta."""
        beta = self.beta(x, memory, K)
        present, past = beta.split((1, memory.shape[1]), -1)
        x_hat = present[..., None, None] * x + torch.einsum("bts,bschw->btchw", past, memory)
        return x_hat, beta


class MemoryLayer(nn.Module):
    """Algorithm 1. `K` may be changed. ablation: Table 2. temperature: that of f."""

    def __init__(self, C=256, K=3, heads=1, ablation="C+U", temperature=1.0):
        super().__init__()
        self.K, self.temperature = K, temperature
        self.has_cross, self.has_uni = ABLATIONS[ablation]
        if self.has_uni:
            self.g_a, self.g_v = TemporalAttention(C, heads), TemporalAttention(C, heads)
        if self.has_cross:
            self.g_av = TemporalAttention(C, heads)

    def spatial_attention(self, x_v, x_a):
        """xₐᵥᵗ(i,j,c) = αₐᵥᵗ(i,j) · xᵥᵗ(i,j,c), below Eq. (1): (B, T, C, h, w), exponents of α."""
        scores = spatial_scores(x_v, x_a, self.temperature)  # (B, T, h, w)
        return spatial_softmax(scores).unsqueeze(-3) * x_v, scores

    def forward(self, x_a, x_v, past=EMPTY) -> LayerOutput:
        """Algorithm 1, for T steps.

            2  x̂ₐ = TemporalAttention(xₐ, {xₐᵏ})
            3  x̂ᵥ = TemporalAttention(xᵥ, {xᵥᵏ})
            4  x̂ₐᵥ = SpatialAttention(x̂ₐ, x̂ᵥ)
            5  x̂ₐᵥ = TemporalAttention(x̂ₐᵥ, {xₐᵥᵏ}),   xₐᵥᵏ = SpatialAttention(xₐᵏ, xᵥᵏ)
            6  return x̂ₐᵥ, x̂ₐ

        x_a (B, T, C, m, n), x_v (B, T, C, h, w), Memory of the steps before."""
        memory_a = memory_v = memory_av = None
        x_a_hat, x_v_hat, betas = x_a, x_v, {}
        if self.has_uni:
            memory_a, memory_v = append(past.a, x_a), append(past.v, x_v)  # (B, P + T, …)
            x_a_hat, betas["a"] = self.g_a(x_a, memory_a, self.K)  # line 2
            x_v_hat, betas["v"] = self.g_v(x_v, memory_v, self.K)  # line 3
        x_av_hat, scores = self.spatial_attention(x_v_hat, x_a_hat)  # line 4
        if self.has_cross:
            memory_av = append(past.av, self.spatial_attention(x_v, x_a)[0])
            x_av_hat, betas["av"] = self.g_av(x_av_hat, memory_av, self.K)  # line 5
        memory = Memory(*(newest(x, self.K) for x in (memory_a, memory_v, memory_av)))
        return LayerOutput(x_av_hat, x_a_hat, scores, betas, memory)


def append(past, x):
    """(B, P, …) or None, (B, T, …) → (B, P + T, …)."""
    return x if past is None else torch.cat((past, x), 1)


def newest(x, K):
    """A copy of the last K steps of x (B, S, …), so that older ones are freed; None stays None."""
    return None if x is None else x[:, max(0, x.shape[1] - K):].clone()
