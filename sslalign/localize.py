"""Find what makes a sound in an image of yours.

`python -m sslalign.localize --image cat.jpg --audio meow.wav --out found.png`
Writes the image with the heatmap and its boxes, and beside it found.json with the boxes in pixels.
"""
from pathlib import Path

from common import metrics
from common.benchmarks.pairs import cropped_waveform, read_waveform
from common.evaluation import PROTOCOL, SIZE, Batch, boxes_from_maps, write_localization
from common.io import InputError, read_image
from common.training import Parser, best_checkpoint, cli, select_device

from .evaluate import load_predictor


def localize(predictor, image, audio):
    """An image (H, W, 3) uint8 and an audio file → heatmap (SIZE, SIZE) of cosines, and boxes with
    scores (n, 5), see `boxes_from_maps`. Raises InputError.
    """
    waveform = cropped_waveform(read_waveform(audio, predictor.config), predictor.config)
    batch = Batch([image], {"matched": predictor.encode_audio(waveform[None])})
    heatmaps = predictor.predict(batch).heatmaps
    heatmap = metrics.resize(heatmaps[""], SIZE, PROTOCOL)  # (1, SIZE, SIZE)
    return heatmap[0], boxes_from_maps(heatmap)[0]


def main(argv=None):
    prog = "python -m sslalign.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the image")
    parser.add_argument("--audio", required=True, help="the audio (wav, flac, ogg; any rate), of "
                        "which the middle is used as in the checkpoint's --seconds and --crop")
    parser.add_argument("--out", default="localized.png",
                        help="image to write; the boxes go to the same name with .json")
    parser.add_argument("--checkpoint", default="", help="default: best.pt of the newest run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    args = parser.parse_args(argv)
    with cli(prog):
        out = Path(args.out)
        if out.suffix.lower() != ".png":
            raise InputError(out, "the overlay is a PNG; name it so")
        path = best_checkpoint("sslalign", args.checkpoint)
        image = read_image(args.image)
        predictor = load_predictor(path, select_device(args.device))
        heatmap, boxes = localize(predictor, image, args.audio)
        write_localization(out, image, heatmap, boxes, {
            "image": args.image, "audio": args.audio, "checkpoint": str(path)})


if __name__ == "__main__":
    main()
