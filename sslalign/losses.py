"""The loss of sslalign, Eqs. (1) to (5) of section 3, as functions of whole batches.

symbol        here      shape
V, A                                  positive sets of a sample: P images, Q audio clips (3.3)
v̄             v_bar     (P·B, c)      mean over xy of v^xy/‖v^xy‖, from model.image_features
a             a         (Q·B, c)
p_v(avg(v))   p_v       (P·B, d)
p_a(a)        p_a       (Q·B, d)
s(v, a)       S         (P·B, Q·B)    of all pairs
τ             tau

B samples. Row p·B + i is of sample i, the p-th of its positive set. `losses` returns the loss of
each sample; train.py averages.

>>> v_bar = a = torch.eye(2)  # two samples, one image and one audio clip each
>>> S = s_L(v_bar, a)
>>> S
tensor([[1., 0.],
        [0., 1.]])
>>> contrast(S, P=1, Q=1, tau=0.5).flatten().round(decimals=4)  # log(1 + exp(-1/τ))
tensor([0.1269, 0.1269])
"""
import torch
import torch.nn.functional as F


def s_L(v_bar, a):
    """The localization similarity of all pairs, Eq. (3) of section 3.2, without a mask: M = 1.

        s_L(v, a) = 1/|M| Σ_xy v^xy · a / (‖v^xy‖ ‖a‖) = v̄ · a/‖a‖,   v̄ = 1/|M| Σ_xy v^xy/‖v^xy‖

    v_bar: (n, c), a: (m, c). Returns (n, m)."""
    return v_bar.float() @ F.normalize(a.float(), dim=-1).T


def s_A(p_v, p_a):
    """The alignment similarity of all pairs, Eq. (4) of section 3.2.

        s_A(v, a) = p_v(avg(v)) · p_a(a) / (‖p_v(avg(v))‖ ‖p_a(a)‖)

    p_v: (n, d), p_a: (m, d), the projected features. Returns (n, m)."""
    return F.normalize(p_v.float(), dim=-1) @ F.normalize(p_a.float(), dim=-1).T


def contrast(S, P: int, Q: int, tau: float):
    """InfoNCE, Eqs. (1) and (2) of section 3.1, of each of the P·Q pairs of positives of a sample.

        L_i = −log( exp(s(v_i, a_i)/τ) / Σ_j exp(s(v_i, a_j)/τ) )

    S: (P·B, Q·B). Returns (P, B, Q). j runs over all B samples, i among them. If a_i is the q-th of
    its positive set, a_j is the q-th of sample j's."""
    S = S.unflatten(0, (P, -1)).unflatten(2, (Q, -1)) / tau  # (P, B, Q, B)
    positive = S.diagonal(dim1=1, dim2=3).transpose(1, 2)  # (P, B, Q)
    return S.logsumexp(3) - positive


def sum_of_pairs(s, v, a, P: int, Q: int, config):
    """One of the two terms of Eq. (5) of section 3.4: the sum over the P·Q pairs of a sample.

        L_i = −Σ_{v_i ∈ V} Σ_{a_i ∈ A} log( exp(s(v_i, a_i)/τ) / Σ_j exp(s(v_i, a_j)/τ) )

    s: s_L, with v̄ as v and with a, or s_A, with p_v as v and p_a as a: (P·B, ·) and (Q·B, ·).
    Returns (B,). With config.symmetric it is the mean of this and the same with v and a exchanged,
    the symmetric form of section 3.1."""
    loss = contrast(s(v, a), P, Q, config.tau)  # (P, B, Q)
    if config.symmetric:
        loss = (loss + contrast(s(v, a).T, Q, P, config.tau).permute(2, 1, 0)) / 2
    return loss.sum((0, 2))


def intra(x, P: int, tau: float):
    """L_intra of Table XII, for which the paper has no equation: InfoNCE within one modality.

        L_i = 1/(P(P−1)) Σ_{p≠q} −log( exp(s_A(x_i^p, x_i^q)/τ) / Σ_j exp(s_A(x_i^p, x_j^q)/τ) )

    x: (P·B, d), projected features. Returns (B,), 0 if P is 1."""
    if P == 1:
        return x.new_zeros(len(x))
    is_pair = ~torch.eye(P, dtype=torch.bool, device=x.device)
    return contrast(s_A(x, x), P, P, tau).transpose(1, 2)[is_pair].mean(0)


def losses(v_bar, a, p_v, p_a, config) -> dict:
    """`loss`, Eq. (5) of section 3.4 of each sample (B,), and its terms.

        L_i = −Σ_{v_i ∈ V} Σ_{a_i ∈ A} [ log( exp(s_L(v_i, a_i)/τ) / Σ_j exp(s_L(v_i, a_j)/τ) )
                                       + log( exp(s_A(v_i, a_i)/τ) / Σ_j exp(s_A(v_i, a_j)/τ) ) ]

    v_bar: (P, B, c), a: (Q, B, c), p_v: (P, B, d), p_a: (Q, B, d). Without config.align the term of
    s_A is left out. With config.intra L_intra of both modalities is added."""
    P, Q = len(v_bar), len(a)
    v_bar, a, p_v, p_a = (x.flatten(0, 1) for x in (v_bar, a, p_v, p_a))
    terms = {"localization": sum_of_pairs(s_L, v_bar, a, P, Q, config)}
    if config.align:
        terms["alignment"] = sum_of_pairs(s_A, p_v, p_a, P, Q, config)
    if config.intra:
        terms["intra"] = intra(p_v, P, config.tau) + intra(p_a, Q, config.tau)
    return {"loss": sum(terms.values()), **terms}
