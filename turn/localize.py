"""Localize a sound or a phrase: `python -m turn.localize --image cat.jpg --audio meow.wav`.

Writes the image with the box, and beside it a JSON file with the box in pixels.
"""
from pathlib import Path

import torch

from common.io import InputError, overlay, read_image, write_image, write_json
from common.training import Parser, best_checkpoint, cli, select_device

from .domains import read_logmel
from .evaluate import load_predictor


def localize(predictor, image, audio="", phrase=""):
    """An image (H, W, 3) uint8, an audio file or a phrase → box (4,), x0, y0, x1, y1 in [0, 1]."""
    q = predictor.encode_text([phrase]) if phrase else predictor.encode_audio(
        read_logmel(audio, predictor.config)[None])
    return predictor.predict([image], q)[0, 0]


def main(argv=None):
    parser = Parser(prog="python -m turn.localize", description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the image")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--audio", default="", help="the audio (wav, flac, ogg; any rate)")
    query.add_argument("--phrase", default="", help="a phrase instead of audio")
    parser.add_argument("--out", default="localized.png", help="PNG to write; the box: .json")
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    with cli(parser.prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path, image = best_checkpoint("turn", args.checkpoint), read_image(args.image)
        predictor = load_predictor(path, select_device(args.device))
        box = localize(predictor, image, args.audio, args.phrase)
        write_image(out, overlay(image, boxes=[box]))
        pixels = (box * torch.tensor([image.shape[1], image.shape[0]] * 2)).tolist()
        write_json(out.with_suffix(".json"), {"image": args.image, "audio": args.audio,
                   "phrase": args.phrase, "boxes": [pixels], "checkpoint": str(path)})
        print(f"{out}: box {', '.join(f'{v:.0f}' for v in pixels)} (x0, y0, x1, y1 in pixels)")


if __name__ == "__main__":
    main()
