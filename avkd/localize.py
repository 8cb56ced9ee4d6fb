"""Find what makes a sound in a picture of your own.

`python -m avkd.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the picture with the map and its boxes, and beside it found.json with the boxes in pixels.
"""
from pathlib import Path

import torch

from common import metrics
from common.training import Parser
from common.io import InputError, overlay, read_image, write_image, write_json
from common.training import best_checkpoint, cli, select_device

from common.evaluation.boxes import boxes_from_maps
from .evaluate import MAPS, load
from common.benchmarks.pairs import cropped_waveform, read_waveform
from common.evaluation.tables import PROTOCOL
from common.evaluation.scoring import SIZE


def localize(predictor, image, audio, variant="AVC"):
    """Picture (H, W, 3) uint8 and a sound file → map (SIZE, SIZE), of cosines for AVC, boxes with scores (n, 5): see
    boxes_from_maps. Raises InputError."""
    sound = cropped_waveform(read_waveform(audio, predictor.config), predictor.config)
    maps = predictor.maps([image], {"AVC": predictor.listen(sound[None])})
    if variant not in maps:
        raise InputError("--variant", f"{variant}: {predictor.note}")
    found = metrics.resize(maps[variant], SIZE, PROTOCOL)
    return found[0], boxes_from_maps(found)[0]


def main(argv=None):
    prog = "python -m avkd.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the picture")
    parser.add_argument("--audio", required=True, help="the sound (wav, flac, ogg; any rate); what is heard is the middle of its "
                        "first seconds, as in the checkpoint's --seconds and --crop")
    parser.add_argument("--out", default="localized.png", help="picture to write; the boxes go to the same name with .json")
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--variant", default="AVC", choices=tuple(MAPS), help="the AVC model alone, or guided by objects")
    parser.add_argument("--object-weights", default="", help="published ResNet-18 for the object-guided variants")
    parser.add_argument("--detr", default="", help="published DETR-R50 for OG-AVC-DETR")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    with cli(prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path = best_checkpoint("avkd", args.checkpoint)
        image = read_image(args.image)
        predictor = load(path, select_device(args.device), args.object_weights, args.detr)
        found, boxes = localize(predictor, image, args.audio, args.variant)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_image(out, overlay(image, heatmap=metrics.normalise(found[None])[0], boxes=boxes[:, :4]))
        height, width = image.shape[:2]
        pixels = (boxes[:, :4] * torch.tensor([width, height, width, height])).tolist()
        write_json(out.with_suffix(".json"), {"image": args.image, "audio": args.audio, "variant": args.variant, "boxes": pixels,
                                              "scores": boxes[:, 4], "similarity": found.max().item(), "checkpoint": str(path)})
        print(f"{out}: {len(pixels)} boxes, {args.variant} up to {found.max().item():.2f}")
        for box in pixels:
            print(f"  {', '.join(f'{v:.0f}' for v in box)} (x0, y0, x1, y1 in pixels)")


if __name__ == "__main__":
    main()
