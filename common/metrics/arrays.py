"""How numpy arrays get in and out of the metrics, and what is checked of every array."""
import functools

import numpy as np
import torch

EXPECTED = {"heatmaps": "finite values", "pred": "a mask of 0 and 1 (see binarize)"}


class NotFinite(FloatingPointError, ValueError):
    """An array, as of a model that has diverged, has values that are NaN or infinite."""


def tensor(x):
    """A numpy array as a tensor that shares its memory where possible; anything else as it is."""
    return torch.from_numpy(np.require(x, requirements="CW")) if isinstance(x, np.ndarray) else x


def portable(function):
    """Decorator: a function of tensors also takes numpy arrays, and then returns numpy arrays."""
    @functools.wraps(function)
    @torch.no_grad()
    def wrapper(*args, **kwargs):
        is_numpy = any(isinstance(x, np.ndarray) for x in (*args, *kwargs.values()))
        result = function(*map(tensor, args), **{name: tensor(x) for name, x in kwargs.items()})
        if is_numpy and isinstance(result, dict):
            return {name: x.numpy() for name, x in result.items()}
        return result.numpy() if is_numpy else result
    return wrapper


def check_maps(**maps) -> list[torch.Tensor]:
    """Maps (N, H, W) → rows (N, H·W) of each in floating point, bool as 0 and 1.

    Raises ValueError if shapes are wrong or differ, or if a sample is not as EXPECTED by the name
    of its argument: heatmaps, pred, or another, which is in [0, 1]."""
    checked = []
    for name, x in maps.items():
        if not isinstance(x, torch.Tensor) or x.dim() != 3 or 0 in x.shape:
            raise ValueError(f"{name}: expected (N, H, W) with N, H, W > 0, got "
                             f"{tuple(getattr(x, 'shape', ()))}")
        rows = x.detach().flatten(1)
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        low, high = rows.amin(1), rows.amax(1)  # NaN where any value is NaN
        bad = ~(low.isfinite() & high.isfinite())
        if name != "heatmaps":
            bad |= (low < 0) | (high > 1)
        if name == "pred" and x.dtype != torch.bool:
            bad |= ((rows > 0) & (rows < 1)).any(1)
        if bad.any():
            i, expected = int(bad.nonzero()[0]), EXPECTED.get(name, "values in [0, 1]")
            kind = ValueError if (low[i] - high[i]).isfinite() else NotFinite
            raise kind(f"{name}: sample {i} has values from {float(low[i])} to "
                       f"{float(high[i])}, expected {expected}")
        checked.append(rows)
    if len({tuple(x.shape) for x in maps.values()}) > 1:
        raise ValueError(f"shapes differ: { {name: tuple(x.shape) for name, x in maps.items()} }")
    return checked


def check_values(values, name: str = "values", length=None) -> torch.Tensor:
    """A list, array or tensor (N,) → (N,) float64 on the CPU. NaN is allowed, infinity is not."""
    values = torch.as_tensor(tensor(values)).detach().cpu().double()
    if values.shape != (length or values.numel(),) or len(values) == 0 or values.isinf().any():
        raise ValueError(f"{name}: expected ({length or 'N'},) with N > 0 and no infinity, got "
                         f"{tuple(values.shape)}")
    return values
