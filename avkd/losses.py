"""The losses of avkd, Eqs. (1) to (3) of sections 3.3 and 3.4, as functions of whole batches.

symbol       here          shape
f_v, e_v     f_v, e_v      (k, c, h, w)   the visual student's features, the visual teacher's hint
             e_v           (k, H, W)      the hint as released: attention, one number a position
f_a, e_a     f_a, e_a      (k, c)         the same of audio
O                          (k, k, h, w)   localization maps of all pairs; never all in memory
S            S             (k, k)         S[i, j]: image i and audio j
τ            tau

k samples, c channels, h × w positions. The paper's first index is the audio's, ours the image's:
S here is the paper's Sᵀ, of which L_S is the same. L_S, L_v and L_a return (k,), the loss of each
sample; train.py averages them, which is the 1/k of Eqs. (2) and (3), of L_v over the samples that
have a hint. Eq. (1) has no 1/k in print; the authors' code takes the mean.

>>> f_v, f_a = torch.eye(2)[:, :, None, None], torch.eye(2)  # each image matches its own audio
>>> S = similarity(f_v, f_a)
>>> S
tensor([[1., 0.],
        [0., 1.]])
>>> L_S(S, tau=0.5).round(decimals=4)  # 2 log(1 + exp(-1/τ))
tensor([0.2539, 0.2539])
>>> L_a(f_a, e_a=f_a), L_a(f_a, e_a=-f_a)
(tensor([0., 0.]), tensor([2., 2.]))
"""
import torch
import torch.nn.functional as F


def similarity(f_v, f_a, chunk: int = 128):
    """The cross-similarity matrix of section 3.3, the greatest value of each localization map.

        S_ij = max_xy O_ij^xy,   O_ij^xy = f_vi^xy · f_aj / (‖f_vi^xy‖ ‖f_aj‖)

    f_v: (n, c, h, w), f_a: (m, c). Returns (n, m). Of the n · m maps those of `chunk` images are in
    memory at a time, made by a matrix product."""
    v = F.normalize(f_v.float(), dim=1).flatten(2)  # (n, c, h·w)
    a = F.normalize(f_a.float(), dim=1)  # (m, c)
    return torch.cat([torch.matmul(a, x).max(2).values for x in v.split(chunk)])  # O: (·, m, h·w)


def L_S(S, tau: float):
    """The contrastive loss, Eq. (1) of section 3.3, of each sample i.

        L_S,i = −log( exp(S_ii/τ) / Σ_j exp(S_ij/τ) · exp(S_ii/τ) / Σ_j exp(S_ji/τ) )

    The paper writes the whole matrices S and Sᵀ for their elements. The loss is the sum of two
    cross-entropies: image i against the audio of all, audio i against the images of all. S: (k, k).
    Returns (k,)."""
    S, target = S / tau, torch.arange(len(S), device=S.device)
    return (F.cross_entropy(S, target, reduction="none")
            + F.cross_entropy(S.T, target, reduction="none"))


def L_v_attention(f_v, e_v):
    """The visual hint loss in the place of Eq. (2), section 3.4, in the authors' code: the default.

        L_v = 1/k Σ_j (m_j − e_vj)²,   m_j^xy = 1/c Σ over c of f_vj^xy / ‖f_vj^xy‖

    f_v: (k, c, h, w). e_v: (k, H, W), the attention of the teacher's confident queries, which sums
    to 1. m is enlarged to it, bilinearly. Returns (k,), the terms of the sum, in which (·)² is the
    mean over the H · W positions. It asks how much of each position's feature lies along (1, …, 1),
    since m = cos(f_v^xy, (1, …, 1)) / √c: where objects are, not what they are."""
    m = F.normalize(f_v.float(), dim=1).mean(1, keepdim=True)  # (k, 1, h, w)
    m = F.interpolate(m, e_v.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    return (m - e_v).square().mean((1, 2))


def L_v(f_v, e_v, norm: str = "map"):
    """The visual hint loss, Eq. (2) of section 3.4 as printed, of features normalised before (3.6).

        L_v = 1/k Σ_j (f_vj − e_vj)²

    f_v, e_v: (k, c, h, w). Returns (k,), the terms of the sum, in which (·)² is the mean over the
    c · h · w elements. norm: "map" normalises the features of an image as one vector, "position"
    those of each position."""
    if norm == "map":
        f_v, e_v = f_v.flatten(1), e_v.flatten(1)
    return squared_error(f_v, e_v)


def L_a(f_a, e_a):
    """The acoustic hint loss, Eq. (3) of section 3.4, of features normalised before (3.6).

        L_a = 1/k Σ_i (f_ai − e_ai)²

    f_a, e_a: (k, c). Returns (k,), the terms of the sum, in which (·)² is the mean over c elements.
    """
    return squared_error(f_a, e_a)


def squared_error(f, e):
    """(k, c, …) → (k,), mean over elements of the difference of f and e, each of unit length."""
    f, e = F.normalize(f.float(), dim=1), F.normalize(e.float(), dim=1)
    return (f - e).square().flatten(1).mean(1)


def L_total(terms: dict, config) -> dict:
    """The whole loss of section 3.4 as `loss`, and its weighted terms.

        L_total = α1 L_S + α2 L_a + α3 L_v

    terms: {"contrast": L_S, "audio_hint": L_a, "visual_hint": L_v}, batch means. Without a teacher
    its term is absent."""
    weights = {"contrast": config.alpha1, "audio_hint": config.alpha2, "visual_hint": config.alpha3}
    terms = {name: weights[name] * loss for name, loss in terms.items()}
    return {"loss": sum(terms.values()), **terms}
