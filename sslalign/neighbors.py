"""Semantically similar samples (3.3): the k nearest of each sample by images, and by audio.

    python -m sslalign.neighbors DIR --data vggsound --root ROOT --image-weights FILE …
    python -m sslalign.neighbors DIR

DIR holds `ids.txt` (one id a line, the order of the rows), `image_features.npy` and
`audio_features.npy` (N, d). The first form writes them with two pre-trained ResNet-18s; the second
takes those of your own encoders. DIR gets `image_neighbours.npy` and `audio_neighbours.npy` (N, k)
int32: row i holds the rows most similar to row i by cosine, best first, never i. A killed command
continues.

>>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
>>> nearest(features, k=2)
tensor([[2, 1],
        [2, 0],
        [0, 1]], dtype=torch.int32)
"""
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.benchmarks.pairs import training_pairs
from common.io import InputError, read_lines
from common.training import Parser, cli, select_device
from common.training.array_files import check_ids, fill_array, open_array

from .backbones.supervised import MODALITIES, extract_supervised, open_features
from .config import PAPER

MAX_SIMILARITIES = 2**25  # in memory at a time: 128 MiB
ROWS = 2**13  # rows of a file that are read together


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """(n, d) → float32 rows of length 1; rows of zeros stay and have cosine 0 with all."""
    x = x.float()  # divided by their maximum first, so that squares neither overflow nor vanish
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def topk_blocks(x: torch.Tensor, k: int, first=0, block=0):
    """The k nearest of the rows of x (N, d), of unit length, from row `first` on.

    Yields (block, k) int32, best first. Exact: each row is compared with all, in float32. One top-k
    over a whole row costs a third of the product before it, less than merging those of parts.
    """
    block = block or max(1, MAX_SIMILARITIES // len(x))
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

    Raises InputError if k is not in 1 … N - 1, FloatingPointError if a feature is not finite.
    """
    check_k(k, len(features))
    if not features.isfinite().all():
        raise FloatingPointError("the model's own features are not finite")
    return torch.cat(list(topk_blocks(unit_rows(features), k)))


@torch.no_grad()
def search(features: np.ndarray, k: int, path, device="cpu", block=0, name="") -> np.memmap:
    """`nearest` of features in a file, float16 or float32, into the file `path`, memory-mapped.

    The features are once in float32 on `device`, with MAX_SIMILARITIES at a time, or `block` rows
    of them. What was killed continues, if features and k are the same (array_files.fill_array).
    Raises InputError if a feature is not finite or k is not in 1 … N - 1.
    """
    count, width = features.shape
    check_k(k, count)
    x, crc = torch.empty(count, width, device=device), 0  # (N, d)
    for i in range(0, count, ROWS):
        rows = np.ascontiguousarray(features[i:i + ROWS])
        if not (is_finite := np.isfinite(rows).all(1)).all():
            source = getattr(features, "filename", None) or name or "features"
            raise InputError(source, f"row {i + is_finite.argmin()} is not finite")
        crc = zlib.crc32(rows, crc)
        x[i:i + ROWS] = unit_rows(torch.tensor(rows, device=device))

    def blocks(first):
        return (rows.cpu().numpy() for rows in topk_blocks(x, k, first, block))

    fingerprint = {"features": {"crc32": crc, "width": width, "dtype": rows.dtype.str}}
    return fill_array(path, (count, k), np.int32, fingerprint, blocks, name)


def load(folder, ids, k: int = 1) -> tuple[np.memmap, np.memmap]:
    """The neighbours by images and by audio of the samples `ids`, (N, ≥ k) int32, memory-mapped.

    Raises InputError if they are too few, of other samples or another order, missing or damaged.
    """
    folder, ids = Path(folder), list(ids)
    check_ids(folder / "ids.txt", ids)
    arrays = tuple(open_neighbours(folder / f"{modality}_neighbours.npy", len(ids))
                   for modality in MODALITIES)
    if (count := min(array.shape[1] for array in arrays)) < k:
        raise InputError(folder, f"holds {count} neighbours of each sample, --k asks for {k}")
    return arrays


def open_neighbours(path, count: int) -> np.memmap:
    command = f"`python -m sslalign.neighbors {path.parent}`"
    if path.with_name(path.name + ".part").exists():
        raise InputError(path, f"is not finished; {command} continues it")
    array = open_array(path, f"{command} makes it")
    if array.ndim != 2 or len(array) != count or not array.size or array.dtype != np.int32:
        raise InputError(path, f"{array.dtype} {array.shape}: not (N, k) int32 with N = {count}")
    for i in range(0, count, ROWS):
        rows = array[i:i + ROWS]
        is_itself = rows == np.arange(i, i + len(rows))[:, None]
        if rows.min() < 0 or rows.max() >= count or is_itself.any():
            raise InputError(path, f"rows {i} to {i + len(rows) - 1}: not the rows of other "
                             f"samples, from 0 to {count - 1}")
    return open_array(path)  # anew, so that its pages are not all in memory


def make_parser() -> Parser:
    parser = Parser(prog="python -m sslalign.neighbors", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="folder of ids.txt, features and neighbours")
    for name, default, text in (
            ("k", PAPER.k, "neighbours of each sample"),
            ("batch-size", 64, "samples that are encoded together"),
            ("workers", 0, "processes that read files"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto"),
            ("held-out", PAPER.held_out, "the training's --held-out"),
            ("data", "", "write ids.txt for training with this --data: vggsound, flickr-soundnet"),
            ("root", "", "the training's --root"), ("ids", "", "the training's --ids"),
            ("image-weights", "", "ResNet-18 of ImageNet; none: image_features.npy is yours"),
            ("audio-weights", "", "ResNet-18 of VGGSound with average pooling; none: likewise"),
            ("audio-key", "model_state_dict", "entry of this file with the weights"),
            ("audio-prefix", "audnet.", "what their names begin with")):
        parser.add_argument(f"--{name}", type=type(default), default=default,
                            help=f"{text} [{'none' if default == '' else default}]")
    parser.add_argument("--skip-bad", action="store_true", help="the training's --skip-bad")
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    weights = {"image": (args.image_weights, "", ""),
               "audio": (args.audio_weights, args.audio_key, args.audio_prefix)}
    has_weights = args.image_weights or args.audio_weights
    if bool(args.data) != bool(args.root) or (has_weights and not args.data):
        parser.error("--data goes with --root, and the two weights with --data")
    if min(args.batch_size, args.workers + 1, args.held_out + 1) < 1:
        parser.error("--batch-size must be at least 1, --workers and --held-out not negative")
    with cli(parser.prog):
        folder, device = Path(args.folder), select_device(args.device)
        if args.data:
            data = replace(PAPER, data=args.data, root=args.root, ids=args.ids,
                           held_out=args.held_out, skip_bad=args.skip_bad)
            samples = training_pairs(data)[0].samples
            extract_supervised(folder, samples, weights, device, args.batch_size, args.workers)
        count = len(read_lines(folder / "ids.txt"))
        check_k(args.k, count)
        features = {modality: folder / f"{modality}_features.npy" for modality in MODALITIES}
        for path in features.values():
            open_features(path, count)  # both are good before the first search begins
        for modality, source in features.items():
            path, start = folder / f"{modality}_neighbours.npy", time.time()
            search(open_features(source, count), args.k, path, device,
                   name=f"{modality} neighbours")
            print(f"{path}: the {args.k} nearest of {count}, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
