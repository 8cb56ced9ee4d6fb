"""Interactive localization (sslalign 4.1.2): an image counts if all of its sources are found."""
import numpy as np
import torch

from .arrays import check_values
from .localization import auc, success_rate


def interactive(values, groups, at=0.5):
    """IIoU, (N,) cIoU and N names of the images that they belong to.

        IIoU = |{ image : min over its sources of cIoU ≥ at }| / number of images

    >>> interactive([0.9, 0.6, 0.8, 0.1], groups=["a", "a", "b", "b"])
    0.5
    """
    return success_rate(worst_of_groups(values, groups), at)


def interactive_auc(values, groups):
    """IAUC: the area under `interactive` at 0, 0.05, …, 1, by trapezoids."""
    return auc(worst_of_groups(values, groups))


def worst_of_groups(values, groups):
    """(N,) values, N group names → (G,): the least value of each group, -1 if one is NaN."""
    values = check_values(values).nan_to_num(nan=-1)
    groups = groups.cpu() if isinstance(groups, torch.Tensor) else groups
    names, index = np.unique(groups, return_inverse=True)
    if index.shape != values.shape:
        raise ValueError(f"groups: expected one for each of {len(values)}, got {index.shape}")
    worst = values.new_full((len(names),), float("inf"))
    return worst.scatter_reduce(0, torch.from_numpy(index), values, "amin")
