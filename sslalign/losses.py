"""The losses of sslalign, Eqs. (1) to (5).

Positives are stacked: P pictures and Q sounds of each of B samples (V and A of section 3.3, three each by default), so that the
P·Q pairs of Eq. (5) are the blocks of one matrix of similarities. Each function returns this process's share of the mean over
the samples of all processes (see common/dist.py), so that shares add up.
"""
import torch
import torch.nn.functional as F

from common.training import dist


def s_L(mean, a):
    """Eq. (3) for all pairs: mean (n, c), of pictures (model.ImageFeatures.mean), and a (m, c) → (n, m).

    With M = 1 the mean over xy of the cosine of v^xy and a is the product of the mean of the unit vectors v^xy with unit a.
    """
    return mean.float() @ F.normalize(a.float(), dim=-1).T  # Eq. (3)


def s_A(p_v, p_a):
    """Eq. (4) for all pairs: projections (n, d) and (m, d) → (n, m) cosines."""
    return F.normalize(p_v.float(), dim=-1) @ F.normalize(p_a.float(), dim=-1).T  # Eq. (4)


def everyone(x, count: int):
    """(count·B, d) of this process, stacked by positive → the same of all processes, (count·N, d)."""
    if dist.world_size() == 1:
        return x
    rows = x.view(count, -1, x.shape[-1]).transpose(0, 1)  # (B, count, d): processes are put together along samples
    return dist.gather_rows(rows.contiguous()).transpose(0, 1).flatten(0, 1)


def contrast(s, x, y, P: int, Q: int, tau: float):
    """Eqs. (1), (2) for each of P·Q pairs: x (P·B, d) against y (Q·B, d) by the similarity s → (P, Q, B) values.

    The denominator of x_i^p and y_i^q runs over y_j^q of all samples j of all processes.
    """
    B = len(x) // P
    S = s(x, everyone(y, Q)).view(P, B, Q, -1) / tau  # (P, B, Q, N)
    own = torch.arange(B, device=x.device) + dist.first_row(x[:B])
    positive = S.gather(3, own[None, :, None, None].expand(P, B, Q, 1))[..., 0]  # (P, B, Q)
    return (torch.logsumexp(S, 3) - positive).transpose(1, 2)  # Eq. (2)


def share(values):
    """(…, B) → this process's part of the mean over samples of the sum over everything else."""
    count = dist.all_sum(torch.full((), float(values.shape[-1]), device=values.device))
    return values.sum() / count


def cross(s, v, a, P, Q, config):
    """The sum over the P·Q pairs of one term of Eq. (5); with `symmetric` the mean of both directions."""
    values = contrast(s, v, a, P, Q, config.tau)
    if config.symmetric:
        values = (values + contrast(lambda x, y: s(y, x).T, a, v, Q, P, config.tau).transpose(0, 1)) / 2
    return share(values)


def intra(x, count: int, tau: float):
    """L_intra of Table XII, which has no equation: InfoNCE in projection space between the positives of one modality,
    averaged over their pairs. x (count·B, d); 0 where there is one positive."""
    if count < 2:
        return x.sum() * 0
    values = contrast(s_A, x, x, count, count, tau)  # (count, count, B)
    pairs = ~torch.eye(count, dtype=torch.bool, device=x.device)  # ordered: both are anchors in turn
    return share(values[pairs]) / pairs.sum()


def losses(seen, heard, P: int, Q: int, config) -> dict:
    """The terms, and `loss`, their sum: Eq. (5) (and L_intra of both modalities, Table XII). P, Q: positives of each."""
    terms = {"localization": cross(s_L, seen.mean, heard.a, P, Q, config)}
    if config.align:
        terms["alignment"] = cross(s_A, seen.projected, heard.projected, P, Q, config)
    if config.intra:
        terms["intra"] = intra(seen.projected, P, config.tau) + intra(heard.projected, Q, config.tau)
    return {"loss": sum(terms.values()), **terms}  # Eq. (5)
