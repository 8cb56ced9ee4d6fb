"""Localize a sound or a phrase: `python -m turn.localize --image cat.jpg --audio meow.wav`.

Writes the image with the box, and beside it a JSON file with the box in pixels; `--out found.html`
also a page, and `--demo 8000` is a page that asks for image and audio.
"""
import sys
from functools import partial

from common.evaluation import Model, localization_parser, write_localization
from common.evaluation.page import Clip
from common.metrics import box_iou
from common.training import best_checkpoint, cli, select_device

from .backbones.frontend import logmel_of, read_clip
from .evaluate import load_predictor


def localize(predictor, image, query) -> Clip:
    """An image (H, W, 3) uint8 and a waveform (n,), or a phrase → its box; IoU with silence's."""
    if isinstance(query, str):
        return Clip(boxes=[predictor.predict([image], predictor.encode_text([query]))[0]])
    logmels = [logmel_of(x, predictor.config)[None] for x in (query, 0 * query)]
    own, silent = predictor.predict([image], *map(predictor.encode_audio, logmels))
    return Clip(boxes=[own], facts={"IoU with silence's box": box_iou(own, silent)})


def main(argv=None):
    parser = localization_parser("turn", __doc__.splitlines()[0])
    parser.add_argument("--phrase", default="", help="a phrase instead of audio")
    args = parser.parse_args(argv)
    with cli(parser.prog):
        args.checkpoint = str(best_checkpoint("turn", args.checkpoint))
        predictor = load_predictor(args.checkpoint, select_device(args.device))
        config = predictor.config
        if unknown := predictor.tokenizer.unknown(args.phrase):
            print(f"not in this model's vocabulary: {', '.join(unknown)}", file=sys.stderr)
        model = Model("turn", config, lambda path: (read_clip(path, config), config.sample_rate),
                      partial(localize, predictor))
        write_localization(args, model, {"phrase": args.phrase})


if __name__ == "__main__":
    main()
