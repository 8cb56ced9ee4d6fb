"""Semantically similar samples (3.3): the k nearest of each sample by images, and by audio.

    python -m sslalign.neighbors DIR --data vggsound --root ROOT --image-weights FILE …
    python -m sslalign.neighbors DIR --data scenes --k 17
    python -m sslalign.neighbors DIR

DIR holds `ids.txt` (one id a line, the order of the rows), `image_features.npy` and
`audio_features.npy` (N, d). The first two forms write them with the encoders of backbones/small.py;
the third takes those of your own. DIR gets `image_neighbours.npy` and `audio_neighbours.npy` (N, k)
int32: row i holds the rows most similar to row i by cosine, best first, never i. A killed command
continues.
"""
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.benchmarks.pairs import training_pairs
from common.io import InputError, read_lines
from common.training import Parser, cli, dist, select_device
from common.training.array_files import (check_ids, file_crc32, fill_array, open_array,
                                         write_ids)
from common.training.nearest import ROWS, check_k, nearest, search

from .backbones.pretrained import published_encoder
from .backbones.small import INPUTS, MODALITIES, Views, features, small_encoders
from .config import PAPER, TINY


def load_neighbours(folder, ids, k: int = 1) -> tuple[np.memmap, np.memmap]:
    """The neighbours by images and by audio of the samples `ids`, (N, ≥ k) int32, memory-mapped.

    Raises InputError if they are too few, of other samples or another order, missing or damaged."""
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


def write_features(folder, source, encoders: dict, config, batch_size=64, workers=0) -> None:
    """Write ids.txt, and the features (N, d) float16 of each modality that has an encoder.

    encoders: modality → its network, and plain data that tells its weights from others."""
    write_ids(folder / "ids.txt", source.ids)
    for modality, (net, weights) in encoders.items():
        def blocks(first, net=net, modality=modality):
            views = Views(source, modality, config, first)
            return (x.half().numpy() for x in features(net, views, batch_size, workers))
        fingerprint = {"ids": file_crc32(folder / "ids.txt"), "weights": weights}
        fill_array(folder / f"{modality}_features.npy", (len(source.ids), net.channels),
                   np.float16, fingerprint, blocks, f"{modality} features")


def open_features(path, count: int) -> np.memmap:
    """Features of `count` samples, of these or of your own encoders. Raises InputError."""
    array = open_array(path, "put the features of your encoders there, or name --data, --root, "
                       "--image-weights and --audio-weights")
    is_float = array.dtype in (np.float16, np.float32)
    if array.ndim != 2 or len(array) != count or not array.size or not is_float:
        raise InputError(path, f"{array.dtype} {array.shape}: not (N, d) float16 or float32 with "
                         f"N = {count}, the ids in ids.txt")
    return array


def scene_neighbours(source, config, device) -> tuple:
    """The config.k nearest of scenes by small encoders, images and audio: (N, k) int32 each.

    The main process finds them, all processes have them."""
    found = None
    if dist.rank() == 0:
        found = tuple(
            nearest(torch.cat(list(features(net, Views(source, modality, config)))),
                    min(config.k, len(source.ids) - 1)).numpy()
            for modality, net in small_encoders(config, device).items())
    return dist.gather_objects(found)[0]


def make_parser() -> Parser:
    parser = Parser(prog="python -m sslalign.neighbors", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="folder of ids.txt, features and neighbours")
    for name, default, text in (
            ("k", PAPER.k, "neighbours of each sample"),
            ("batch-size", 64, "samples that are encoded together"),
            ("workers", 0, "processes that read files"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto"),
            ("held-out", PAPER.held_out, "the training's --held-out"),
            ("data", "", "write ids.txt for training with this --data: vggsound, flickr-soundnet, "
             "or scenes, with small encoders and the other settings of tiny"),
            ("root", "", "the training's --root"), ("ids", "", "the training's --ids"),
            ("exclude-test", "", "the training's --exclude-test"),
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
    has_weights, is_scenes = args.image_weights or args.audio_weights, args.data == "scenes"
    if bool(args.data) != bool(args.root or is_scenes) or (has_weights and not args.data):
        parser.error("--data goes with --root, and the two weights with --data")
    if min(args.batch_size, args.workers + 1, args.held_out + 1) < 1:
        parser.error("--batch-size must be at least 1, --workers and --held-out not negative")
    with cli(parser.prog):
        folder, device = Path(args.folder), select_device(args.device)
        if args.data:
            config = TINY if is_scenes else replace(INPUTS, data=args.data, root=args.root,
                ids=args.ids, held_out=args.held_out, skip_bad=args.skip_bad,
                exclude_test=args.exclude_test)
            source = training_pairs(config)[0]
            encoders = {modality: (published_encoder(modality, *file, device), file_crc32(file[0]))
                        for modality, file in weights.items() if file[0]}
            if is_scenes:
                encoders = {modality: (net, "small")
                            for modality, net in small_encoders(config, device).items()}
            write_features(folder, source, encoders, config, args.batch_size, args.workers)
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
