"""Exact nearest neighbours by cosine, of features in memory or in files.

>>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
>>> nearest(features, k=2)
tensor([[2, 1],
        [2, 0],
        [0, 1]], dtype=torch.int32)
"""
import zlib

import numpy as np
import torch

from common.io import InputError

from .array_files import fill_array

MAX_SIMILARITIES = 2**25  # in memory at a time: 128 MiB
ROWS = 2**13  # rows of a file that are read together


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """(n, d) → float32 rows of length 1; rows of zeros stay and have cosine 0 with all."""
    # in float64, so that squares neither overflow nor vanish
    return torch.nn.functional.normalize(x.double(), eps=1e-300).float()


def topk_blocks(x: torch.Tensor, k: int, first=0):
    """The k nearest of the rows of x (N, d), of unit length, from row `first` on.

    Yields (block, k) int32, best first. Exact: each row is compared with all, in float32. One top-k
    over a whole row costs a third of the product before it, less than merging those of parts."""
    block = max(1, MAX_SIMILARITIES // len(x))
    for i in range(first, len(x), block):
        similarity = float32_product(x[i:i + block], x)  # (block, N)
        similarity.diagonal(offset=i).fill_(-torch.inf)  # not itself
        yield similarity.topk(k).indices.int()


def float32_product(a, b):
    """a @ bᵀ in float32, where a training allows less too."""
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        with torch.autocast(a.device.type, enabled=False):
            return a @ b.T
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def check_k(k: int, count: int) -> None:
    if not 1 <= k < count:
        raise InputError("--k", f"{k}: each of {count} samples has {count - 1} neighbours")


@torch.no_grad()
def nearest(features: torch.Tensor, k: int) -> torch.Tensor:
    """The k nearest of each row of features (N, d) in memory: (N, k) int32, on their device.

    Raises InputError if k is not in 1 … N - 1, FloatingPointError if a feature is not finite."""
    check_k(k, len(features))
    if not features.isfinite().all():
        raise FloatingPointError("features are not finite")
    return torch.cat(list(topk_blocks(unit_rows(features), k)))


@torch.no_grad()
def search(features: np.memmap, k: int, path, device="cpu", name="") -> np.memmap:
    """`nearest` of features in a file, float16 or float32, into the file `path`, memory-mapped.

    The features are once in float32 on `device`, with MAX_SIMILARITIES at a time. What was killed
    continues, if features and k are the same (array_files.fill_array).
    Raises InputError if a feature is not finite or k is not in 1 … N - 1."""
    count, width = features.shape
    check_k(k, count)
    x, crc = torch.empty(count, width, device=device), 0  # (N, d)
    for i in range(0, count, ROWS):
        rows = np.ascontiguousarray(features[i:i + ROWS])
        if not (is_finite := np.isfinite(rows).all(1)).all():
            raise InputError(features.filename, f"row {i + is_finite.argmin()} is not finite")
        crc = zlib.crc32(rows, crc)
        x[i:i + ROWS] = unit_rows(torch.tensor(rows, device=device))

    def blocks(first):
        return (found.cpu().numpy() for found in topk_blocks(x, k, first))

    fingerprint = {"features": {"crc32": crc, "width": width, "dtype": rows.dtype.str}}
    return fill_array(path, (count, k), np.int32, fingerprint, blocks, name)
