"""Find what makes a sound in a picture of your own.

`python -m sslalign.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the picture with the map and its boxes, and beside it found.json with the boxes in pixels.
"""
from pathlib import Path

import torch

from common import metrics
from common.training import Parser
from common.io import InputError, overlay, read_image, write_image, write_json
from common.training import best_checkpoint, cli, select_device

from common.evaluation.boxes import boxes_from_maps
from .evaluate import PROTOCOL, load
from .model import cosine_map
from common.benchmarks.pairs import cropped_waveform, read_waveform
from common.evaluation.scoring import SIZE


def localize(predictor, image, audio):
    """Picture (H, W, 3) uint8 and a sound file → map of cosines (SIZE, SIZE), boxes with scores (n, 5): see boxes_from_maps."""
    sound = cropped_waveform(read_waveform(audio, predictor.config), predictor.config)
    small = cosine_map(predictor.look([image]), predictor.listen(sound[None])).cpu()  # (1, h, w)
    found = metrics.resize(small, SIZE, PROTOCOL)
    return found[0], boxes_from_maps(found)[0]


def main(argv=None):
    prog = "python -m sslalign.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the picture")
    parser.add_argument("--audio", required=True, help="the sound (wav, flac, ogg; any rate)")
    parser.add_argument("--out", default="localized.png", help="picture to write; the boxes go to the same name with .json")
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    with cli(prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path = best_checkpoint("sslalign", args.checkpoint)
        image = read_image(args.image)
        found, boxes = localize(load(path, select_device(args.device)), image, args.audio)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_image(out, overlay(image, heatmap=metrics.normalise(found[None])[0], boxes=boxes[:, :4]))
        height, width = image.shape[:2]
        pixels = (boxes[:, :4] * torch.tensor([width, height, width, height])).tolist()
        similarity = found.max().item()
        write_json(out.with_suffix(".json"), {"image": args.image, "audio": args.audio, "boxes": pixels, "scores": boxes[:, 4],
                                              "similarity": similarity, "checkpoint": str(path)})
        print(f"{out}: {len(pixels)} boxes, cosine up to {similarity:.2f}")
        for box in pixels:
            print(f"  {', '.join(f'{v:.0f}' for v in box)} (x0, y0, x1, y1 in pixels)")


if __name__ == "__main__":
    main()
