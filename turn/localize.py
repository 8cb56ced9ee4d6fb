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
    prog = "python -m turn.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the image")
    for name, default, text in (
            ("audio", "", "the audio (wav, flac, ogg; any rate)"),
            ("phrase", "", "a phrase instead of audio"),
            ("out", "localized.png", "image to write; the box goes to the same name with .json"),
            ("checkpoint", "", "default: best.pt of the newest run"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto")):
        parser.add_argument(f"--{name}", default=default, help=text)
    args = parser.parse_args(argv)
    if bool(args.audio) == bool(args.phrase):
        parser.error("give either --audio or --phrase")
    with cli(prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path = best_checkpoint("turn", args.checkpoint)
        image = read_image(args.image)
        predictor = load_predictor(path, select_device(args.device))
        box = localize(predictor, image, args.audio, args.phrase)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_image(out, overlay(image, boxes=[box]))
        height, width = image.shape[:2]
        pixels = (box * torch.tensor([width, height, width, height])).tolist()
        write_json(out.with_suffix(".json"), {"image": args.image, "audio": args.audio,
                   "phrase": args.phrase, "boxes": [pixels], "checkpoint": str(path)})
        print(f"{out}: box {', '.join(f'{v:.0f}' for v in pixels)} (x0, y0, x1, y1 in pixels)")


if __name__ == "__main__":
    main()
