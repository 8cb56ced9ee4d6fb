"""The losses of avkd, Eqs. (1) to (3).

Each function returns this process's share of the mean over the k samples of all processes (see common/dist.py), so that
shares add up.
"""
import torch
import torch.nn.functional as F

from common.training import dist


def similarity(f_v, f_a, chunk: int = 128):
    """f_v (n, c, h, w), f_a (m, c) → S (m, n): the greatest cosine of each sound with the positions of each picture (3.3).

    The m · n maps O are never all there: those of `chunk` pictures at a time, of which the maximum keeps one number and its
    place. The c channels of a pair of features are multiplied and added at once (a matrix product), so nothing is ever larger
    than the features themselves or chunk · m · h · w.
    """
    v = F.normalize(f_v.float(), dim=1).flatten(2)  # (n, c, h·w)
    a = F.normalize(f_a.float(), dim=1)  # (m, c)
    parts = [torch.matmul(a, x).max(2).values for x in v.split(chunk)]  # O: (chunk, m, h·w) → (chunk, m)
    return torch.cat(parts).T


def L_S(f_v, f_a, tau: float, chunk: int = 128):
    """Eq. (1): f_v (n, c, h, w) and f_a (n, c) of this process's samples, contrasted with those of all processes.

    The logarithm of the product of both softmaxes is a sum: each picture is to find its sound among all sounds, and each sound
    its picture among all pictures.
    """
    own = torch.arange(len(f_v), device=f_v.device) + dist.first_row(f_v)
    S = similarity(f_v, dist.gather_rows(f_a), chunk) / tau  # (k, n): all sounds, this process's pictures
    everyone = dist.gather_rows(S.T.contiguous())  # (k, k): a row for each picture
    by_picture = F.cross_entropy(S.T, own, reduction="sum")
    by_sound = F.cross_entropy(everyone.T[own], own, reduction="sum")
    return (by_picture + by_sound) / len(everyone)  # Eq. (1)


def hint(f, e):
    """The mean squared error over elements of normalised features (n, …), which Eqs. (2) and (3) share: this process's part."""
    count = dist.all_sum(torch.full((), float(len(f)), device=f.device))
    return (f - e).square().flatten(1).mean(1).sum() / count


def L_v(f_v, e_v, norm: str = "map"):
    """Eq. (2): f_v, e_v (n, c, h, w), each normalised before (3.6): as one vector, or position by position."""
    if norm == "map":
        f_v, e_v = f_v.flatten(1), e_v.flatten(1)
    return hint(F.normalize(f_v.float(), dim=1), F.normalize(e_v.float(), dim=1))  # Eq. (2)


def L_a(f_a, e_a):
    """Eq. (3): f_a, e_a (n, c), each normalised before (3.6)."""
    return hint(F.normalize(f_a.float(), dim=1), F.normalize(e_a.float(), dim=1))  # Eq. (3)


def losses(f_v, f_a, e_v, e_a, config) -> dict:
    """The weighted terms, and `loss`, their sum, L_total (3.4). e_v, e_a: hints, or None without that teacher."""
    terms = {"contrast": config.alpha1 * L_S(f_v, f_a, config.tau, config.chunk)}
    if e_a is not None:
        terms["audio_hint"] = config.alpha2 * L_a(f_a, e_a)
    if e_v is not None:
        terms["visual_hint"] = config.alpha3 * L_v(f_v, e_v, config.visual_norm)
    return {"loss": sum(terms.values()), **terms}  # L_total
