"""Find what makes a sound in an image of yours.

`python -m sslalign.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the image with the heatmap and its boxes, and beside it found.json with the boxes in pixels;
`--out found.html` also a page, and `--demo 8000` is a page that asks for image and audio.
"""
from functools import partial

from common import metrics
from common.benchmarks.pairs import cropped_waveform, read_waveform
from common.evaluation import (PROTOCOL, SIZE, Batch, Model, boxes_from_maps, localization_parser,
                               write_localization)
from common.evaluation.page import Clip
from common.training import best_checkpoint, cli, select_device

from .evaluate import load_predictor


def read(config, path) -> tuple:
    """An audio file → the waveform that the model takes, (n,), and its rate. InputError."""
    return cropped_waveform(read_waveform(path, config), config), config.sample_rate


def localize(predictor, image, waveform) -> Clip:
    """An image (H, W, 3) uint8 and a waveform (n,) → heatmap (1, h, w) of cosines, and boxes
    with scores (n, 5), see `boxes_from_maps`."""
    batch = Batch([image], {"matched": predictor.encode_audio(waveform[None])})
    heatmap = predictor.predict(batch).heatmaps[""]  # (1, h, w)
    enlarged = metrics.resize(heatmap, SIZE, PROTOCOL)
    return Clip(heatmaps=heatmap, boxes=boxes_from_maps(enlarged),
                facts={"similarity": enlarged.max().item()})


def main(argv=None):
    parser = localization_parser("sslalign", __doc__.splitlines()[0])
    parser.add_argument("--released", default="",
                        help="checkpoint of the authors' code instead of --checkpoint")
    args = parser.parse_args(argv)
    with cli(parser.prog):
        args.checkpoint = args.released or str(best_checkpoint("sslalign", args.checkpoint))
        predictor = load_predictor(args.checkpoint, select_device(args.device),
                                   is_released=bool(args.released))
        model = Model("sslalign", predictor.config, partial(read, predictor.config),
                      partial(localize, predictor))
        write_localization(args, model, {})


if __name__ == "__main__":
    main()
