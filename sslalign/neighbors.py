"""Semantically similar samples (3.3): the k most similar pictures and the k most similar sounds of every sample of a data set.

    python -m sslalign.neighbors DIR --data vggsound --root ROOT --image-weights FILE --audio-weights FILE
    python -m sslalign.neighbors DIR

DIR holds `ids.txt` (an id a line: the order of the rows), `image_features.npy`, `audio_features.npy` (N, d): of two pre-trained
ResNet-18s, which the first form extracts, or of anybody's encoders. It gets `image_neighbours.npy` and `audio_neighbours.npy`
(N, k) int32: row i holds the rows most similar to row i by cosine, best first, never i. A command that was killed continues.
"""
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.benchmarks.annotations import read_lines
from common.training.array_files import file_crc32, fill_array, open_array, check_ids, write_ids
from common.training import Parser
from common.io import InputError
from common.training import cli, select_device

from .config import PAPER
from .features import encoder, extract
from common.benchmarks.pairs import training_pairs

MODALITIES = "image", "audio"
SCORES = 2**25  # similarities that are in memory at a time: 128 MiB
ROWS = 2**13  # rows of a file that are looked at together


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows (n, d) → float32 rows of length 1, whatever their scale; rows of zeros stay, and so have cosine 0 with all."""
    x = x.float()
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # squares neither overflow nor vanish
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def topk_blocks(x: torch.Tensor, k: int, first=0, block=0):
    """Unit rows (N, d) → for a block of rows after the other, from row `first` on, their k nearest others: (block, k) int32.

    Exact: every row is compared with all, in float32. Best first; which of equals comes first is not defined. One top-k over
    a whole row costs a third of the product before it, less than merging those of parts.
    """
    block = block or max(1, SCORES // len(x))
    for i in range(first, len(x), block):
        s = _product(x[i:i + block], x)  # (block, N)
        s.diagonal(offset=i).fill_(-torch.inf)  # not itself
        yield s.topk(k).indices.int()


def _product(a, b):
    """a @ b.T in float32, also where the training allows less."""
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        with torch.autocast(a.device.type, enabled=False):
            return a @ b.T
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _check(k, count):
    if not 1 <= k < count:
        raise InputError("--k", f"{k}: each of {count} samples has {count - 1} neighbours")


@torch.no_grad()
def nearest(features: torch.Tensor, k: int) -> torch.Tensor:
    """Features (N, d) in memory → (N, k) int32 on their device: for neighbours by the model's own features.

    Raises InputError for k that is not in 1 … N - 1, FloatingPointError for features that are not finite.
    """
    _check(k, len(features))
    if not features.isfinite().all():
        raise FloatingPointError("the model's own features are not finite")
    return torch.cat(list(topk_blocks(unit(features), k)))


@torch.no_grad()
def search(features: np.ndarray, k: int, path, device="cpu", block=0, name="") -> np.memmap:
    """Features (N, d) float16 or float32, memory-mapped or not → (N, k) int32 in the file `path`, memory-mapped.

    Holds the features once in float32 on `device`, and there SCORES similarities at a time, or `block` rows of them. Continues
    what was killed, if features and k are the same (see `arrays.fill`). Raises InputError for features that are not finite
    and for k that is not in 1 … N - 1.
    """
    count, width = features.shape
    _check(k, count)
    x, crc = torch.empty(count, width, device=device), 0  # (N, d)
    for i in range(0, count, ROWS):
        rows = np.ascontiguousarray(features[i:i + ROWS])
        if not (finite := np.isfinite(rows).all(1)).all():
            source = getattr(features, "filename", None) or name or "features"
            raise InputError(source, f"row {i + finite.argmin()} is not finite")
        crc = zlib.crc32(rows, crc)
        x[i:i + ROWS] = unit(torch.tensor(rows, device=device))

    def blocks(first):
        return (found.cpu().numpy() for found in topk_blocks(x, k, first, block))

    return fill_array(path, (count, k), np.int32, {"features": {"crc32": crc, "width": width, "dtype": rows.dtype.str}}, blocks, name)


def load(folder, ids) -> tuple[np.memmap, np.memmap]:
    """The neighbours in pictures and in sounds of the samples `ids`, each (N, k) int32, memory-mapped.

    Raises InputError where `folder` is of other samples or in another order, or a file is missing, unfinished, or not such.
    """
    folder, ids = Path(folder), list(ids)
    check_ids(folder / "ids.txt", ids)
    return tuple(_neighbours(folder / f"{modality}_neighbours.npy", len(ids)) for modality in MODALITIES)


def _neighbours(path, count):
    if path.with_name(path.name + ".part").exists():
        raise InputError(path, f"is not finished; `python -m sslalign.neighbors {path.parent}` continues it")
    array = open_array(path, f"`python -m sslalign.neighbors {path.parent}` makes it")
    if array.ndim != 2 or len(array) != count or not array.size or array.dtype != np.int32:
        raise InputError(path, f"{array.dtype} {array.shape}: not (N, k) int32 with N = {count}")
    for i in range(0, count, ROWS):
        rows = array[i:i + ROWS]
        if rows.min() < 0 or rows.max() >= count or (rows == np.arange(i, i + len(rows))[:, None]).any():
            raise InputError(path, f"rows {i} to {i + len(rows) - 1}: not the rows of other samples, from 0 to {count - 1}")
    return open_array(path)  # anew, so that its pages are not all in memory


def _features(path, count):
    array = open_array(path, "put the features of your encoders there, or name --data, --root and weights")
    if array.ndim != 2 or len(array) != count or not array.size or array.dtype not in (np.float16, np.float32):
        raise InputError(path, f"{array.dtype} {array.shape}: not (N, d) float16 or float32 with N = {count}, the ids in ids.txt")
    return array


def main(argv=None):
    prog = "python -m sslalign.neighbors"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="folder with ids.txt and features, or for them; gets the neighbours")
    parser.add_argument("--k", type=int, default=PAPER.k, help="neighbours of each sample [%(default)s]")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--data", default="", help="write ids.txt for training with this --data: vggsound or flickr-soundnet")
    for name in ("root", "ids"):
        parser.add_argument(f"--{name}", default="", help=f"the training's --{name}")
    parser.add_argument("--held-out", type=int, default=PAPER.held_out, help="the training's --held-out [%(default)s]")
    parser.add_argument("--skip-bad", action="store_true", help="the training's --skip-bad")
    parser.add_argument("--image-weights", default="", help="ImageNet ResNet-18; without, image_features.npy is yours")
    parser.add_argument("--audio-weights", default="", help="VGGSound ResNet-18, average pooling; without, as above")
    parser.add_argument("--audio-key", default="model_state_dict", help="the entry of this file with the weights [%(default)s]")
    parser.add_argument("--audio-prefix", default="audnet.", help="what their names begin with [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=64, help="samples that are encoded together [%(default)s]")
    parser.add_argument("--workers", type=int, default=0, help="processes that read files [%(default)s]")
    args = parser.parse_args(argv)
    weights = {"image": (args.image_weights, "", ""), "audio": (args.audio_weights, args.audio_key, args.audio_prefix)}
    if bool(args.data) != bool(args.root) or (not args.data and (args.image_weights or args.audio_weights)):
        parser.error("--data goes with --root, and the two weights with --data")
    if min(args.batch_size, args.workers + 1, args.held_out + 1) < 1:
        parser.error("--batch-size must be at least 1, --workers and --held-out not negative")
    with cli(prog):
        folder, device = Path(args.folder), select_device(args.device)
        if args.data:
            data = replace(PAPER, data=args.data, root=args.root, ids=args.ids, held_out=args.held_out, skip_bad=args.skip_bad)
            supervised(folder, training_pairs(data)[0].samples, weights, device, args.batch_size, args.workers)
        count = len(read_lines(folder / "ids.txt"))
        _check(args.k, count)
        for modality in MODALITIES:
            _features(folder / f"{modality}_features.npy", count)  # both are good before the first search begins
        for modality in MODALITIES:
            path, started = folder / f"{modality}_neighbours.npy", time.time()
            search(_features(folder / f"{modality}_features.npy", count), args.k, path, device, name=f"{modality} neighbours")
            print(f"{path}: the {args.k} nearest of {count}, {time.time() - started:.0f} s")


def supervised(folder, samples, weights: dict, device="cpu", batch_size=64, workers=0) -> None:
    """Write ids.txt, and the features of each modality whose weights (file, key, prefix) are given. Raises InputError."""
    nets = {modality: encoder(modality, *of, device) for modality, of in weights.items() if of[0]}  # before anything is written
    write_ids(folder / "ids.txt", [sample.id for sample in samples])
    for modality, net in nets.items():
        made_of = {"ids": file_crc32(folder / "ids.txt"), "weights": file_crc32(weights[modality][0])}
        extract(samples, modality, net, folder / f"{modality}_features.npy", made_of, device, batch_size, workers)


if __name__ == "__main__":
    main()
