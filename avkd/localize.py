"""Find what makes a sound in an image of yours.

`python -m avkd.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the image with the heatmap and its boxes, and beside it found.json with the boxes in pixels;
`--out found.html` also a page, and `--demo 8000` is a page that asks for image and audio.
"""
from functools import partial

from common import metrics
from common.benchmarks.pairs import read_input
from common.evaluation import (SIZE, Batch, Model, boxes_from_maps, localization_parser,
                               write_localization)
from common.evaluation.page import Clip
from common.io import InputError
from common.training import add_flags, best_checkpoint, check_settings, cli, select_device

from .config import EVALUATION, PRESETS
from .evaluate import VARIANTS, load_predictor


def localize(predictor, variant, image, waveform) -> Clip:
    """An image (H, W, 3) uint8 and a waveform (n,) → heatmap (1, h, w), of cosines for AVC,
    and boxes with scores (n, 5), see `boxes_from_maps`. Raises InputError."""
    protocol = predictor.config.protocol
    batch = Batch([image], {"matched": predictor.encode_audio(waveform[None])},
                  metrics.PROTOCOLS[protocol].align_corners, protocol=protocol)
    heatmaps = {VARIANTS[column]: x for column, x in predictor.predict(batch).heatmaps.items()}
    if variant not in heatmaps:
        raise InputError("--variant", f"{variant}: {predictor.note}")
    heatmap = heatmaps[variant]  # (1, h, w)
    enlarged = metrics.resize(heatmap, SIZE)  # half-pixel centres, as it is drawn
    fact = "similarity" if variant == "AVC" else "greatest weighted sum of maps"
    return Clip(heatmaps=heatmap, boxes=boxes_from_maps(enlarged),
                facts={fact: enlarged.max().item()})


def main(argv=None):
    parser = localization_parser("avkd", __doc__.splitlines()[0])
    parser.add_argument("--variant", default="AVC", choices=tuple(VARIANTS.values()),
                        help="the AVC model alone, or guided by objects")
    add_flags(parser, PRESETS, EVALUATION)
    args = parser.parse_args(argv)
    changes = check_settings(parser, PRESETS, args, EVALUATION)
    with cli(parser.prog):
        args.checkpoint = str(best_checkpoint("avkd", args.checkpoint))
        predictor = load_predictor(args.checkpoint, select_device(args.device), changes)
        model = Model("avkd", predictor.config, partial(read_input, predictor.config),
                      partial(localize, predictor, args.variant))
        write_localization(args, model, {"variant": args.variant})


if __name__ == "__main__":
    main()
