"""Find what makes a sound in a picture of your own: `python -m turn.localize --image cat.jpg --audio meow.wav --out found.png`.

Writes the picture with the box, and beside it found.json with the box in pixels. A phrase can stand in the sound's place.
"""
from pathlib import Path

import torch

from common.training import Parser
from common.io import InputError, overlay, read_image, write_image, write_json
from common.training import best_checkpoint, cli, select_device

from .data import read_logmel
from .evaluate import load


@torch.no_grad()
def localize(predictor, image, audio=None, phrase=None):
    """picture (H, W, 3) uint8 and a sound file, or a phrase → box (4,) x0, y0, x1, y1 in [0, 1]."""
    q = predictor.texts([phrase]) if phrase else predictor.sounds(read_logmel(audio, predictor.config)[None])
    return predictor.boxes([image], [q])[0][0]


def main(argv=None):
    prog = "python -m turn.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the picture")
    parser.add_argument("--audio", default="", help="the sound (wav, flac, ogg; any rate)")
    parser.add_argument("--phrase", default="", help="a phrase instead of a sound")
    parser.add_argument("--out", default="localized.png", help="picture to write; the box goes to the same name with .json")
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    if bool(args.audio) == bool(args.phrase):
        parser.error("one of --audio and --phrase is needed")
    with cli(prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path = best_checkpoint("turn", args.checkpoint)
        image = read_image(args.image)
        box = localize(load(path, select_device(args.device)), image, args.audio, args.phrase)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_image(out, overlay(image, boxes=[box]))
        height, width = image.shape[:2]
        pixels = (box * torch.tensor([width, height, width, height])).tolist()
        write_json(out.with_suffix(".json"), {"image": args.image, "audio": args.audio, "phrase": args.phrase,
                                              "boxes": [pixels], "checkpoint": str(path)})
        print(f"{out}: box {', '.join(f'{v:.0f}' for v in pixels)} (x0, y0, x1, y1 in pixels)")


if __name__ == "__main__":
    main()
