"""Find what makes a sound in an image of yours.

`python -m sslalign.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the image with the heatmap and its boxes, and beside it found.json with the boxes in pixels;
`--out found.html` also a page, and `--demo 8000` is a page that asks for image and audio.
With `--search DIR` it finds images like the image with the audio (4.4, Figure 7).
"""
from functools import partial

from common import metrics
from common.benchmarks.pairs import read_input
from common.evaluation import (PROTOCOL, SIZE, Batch, Model, boxes_from_maps, localization_parser,
                               write_localization)
from common.evaluation.page import Clip
from common.training import best_checkpoint, cli, select_device

from .crossmodal import write_retrieved
from .evaluate import load_predictor


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
    parser.add_argument("--search", default="", help="folder of images, or scenes: find those "
                        "nearest to λ · image + (1 − λ) · audio, instead of localizing")
    parser.add_argument("--data", default="", help="the data set in this folder, as vggss or is3")
    parser.add_argument("--lam", type=float, nargs="+", default=[0.5], metavar="λ",
                        help="from 0 to 1; several make a row each [0.5]")
    args = parser.parse_args(argv)
    has_query = args.image and args.audio and all(0 <= lam <= 1 for lam in args.lam)
    if args.search and not has_query:
        parser.error("--search goes with --image, --audio and --lam from 0 to 1")
    if (args.released and args.checkpoint) or (args.data and not args.search):
        parser.error("--released stands in the place of --checkpoint, --data goes with --search")
    with cli(parser.prog):
        args.checkpoint = args.released or str(best_checkpoint("sslalign", args.checkpoint))
        predictor = load_predictor(args.checkpoint, select_device(args.device),
                                   is_released=bool(args.released))
        if args.search:
            return write_retrieved(args, predictor, read_input(predictor.config, args.audio)[0])
        model = Model("sslalign", predictor.config, partial(read_input, predictor.config),
                      partial(localize, predictor))
        write_localization(args, model, {})


if __name__ == "__main__":
    main()
