"""Find what makes a sound in a video of your own, frame by frame.

`python -m stmnet.localize --video cello.mp4 --out found.gif`, or --video FOLDER with 0000.jpg, 0001.jpg, … and one sound
Writes the frames with map and boxes, as an animated GIF or an .mp4, and beside it found.json with the boxes in pixels. Live:
`python -m stmnet.localize --stream --frames <(ffmpeg …) --sound <(ffmpeg …) --size 320x240 --fps 4`, see stmnet/stream.py.
"""
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from common.training import Parser
from common.io import InputError, overlay, write_json
from common.training import best_checkpoint, cli, select_device

from . import film, stream
from .clips import segments_at
from .evaluate import add_flags, changes_of, load
from .memory import EMPTY
from .score import enlarged

BLOCK = 16  # frames at once
ENDS = (".gif", ".mp4")


def localize(predictor, video):
    """A film.Film → its frames one by one: (picture with map and boxes, `stream.line`). The memory goes on from block to block."""
    past = EMPTY
    for first in range(0, len(video.frames), BLOCK):
        frames = [video.image(k) for k in range(first, min(first + BLOCK, len(video.frames)))]
        times = video.times(first, len(frames))
        segments = segments_at(video.waveform, times, predictor.config.samples)
        maps, said, confidence, shown, past = predictor.answer(predictor.look(frames), segments, past)
        heats, names = enlarged(maps[predictor.config.box_map]), predictor.names(said, shown)
        for k, (image, boxes) in enumerate(zip(frames, predictor.boxes(frames, maps, shown))):
            picture = overlay(image, heatmap=heats[k], boxes=boxes[:, :4], labels=[names[k]] * len(boxes))
            yield picture, stream.line(first + k, times[k], image.shape, boxes, names[k], confidence[k])


def offline(predictor, args, path):
    out, found = Path(args.out), []
    if out.resolve() == Path(args.video).resolve():
        raise InputError(out, "would take the place of the video itself")

    def pictures(video):
        for picture, said in localize(predictor, video):
            found.append(said)
            yield picture
    with film.opened(args.video, args.fps) as video:
        film.write(out, pictures(video), args.fps, video.sound)
    write_json(out.with_suffix(".json"), {"video": args.video, "fps": args.fps, "frames": found, "K": predictor.config.K,
                                          "box_map": predictor.config.box_map, "checkpoint": str(path)})
    print(f"{out}: {len(found)} frames, {sum(len(x['boxes']) for x in found)} boxes; {', '.join(sorted({x['label'] for x in found}))}")


def live(predictor, args):
    width, height = map(int, args.size.split("x"))
    if "-" == args.frames == args.sound:
        raise InputError("--sound", "frames come from standard input already: a pipe or a file for one of the two")
    with ExitStack() as stack:
        files = []
        for name in (args.frames, args.sound):
            try:
                files.append(sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb")))
            except OSError as error:
                raise InputError(name, error.strerror) from None
        out = stack.enter_context(open(args.out, "w", encoding="utf-8")) if args.out else sys.stdout
        sound = stream.Sound(files[1], predictor.config.samples)
        try:
            count = stream.stream(predictor, stream.frames_of(files[0], args.frames, width, height), sound, args.fps, out)
        except BrokenPipeError:  # whoever read the lines has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if not count:
            raise InputError(args.frames, "no frame came")


def main(argv=None):
    prog = "python -m stmnet.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--video", default="", help="a folder with numbered pictures and one sound, or a file that ffmpeg reads")
    parser.add_argument("--out", default="", help="GIF or .mp4 to write [localized.gif], the boxes go to the same name with .json; with "
                        "--stream a file of JSON lines [standard output]")
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second of a folder or a stream, or taken of a file [4]")
    parser.add_argument("--stream", action="store_true", help="read raw frames and sound as they come, write JSON lines")
    parser.add_argument("--frames", default="", help="with --stream: path of raw rgb24 frames, - for standard input")
    parser.add_argument("--sound", default="", help="with --stream: path of raw s16le mono sound at 16 kHz")
    parser.add_argument("--size", default="", metavar="WxH", help="with --stream: size of the frames")
    args = parser.parse_args(argv)
    if bool(args.video) == args.stream:
        parser.error("either --video or --stream")
    if not 0.1 <= args.fps <= 100:
        parser.error("--fps is between 0.1 and 100")
    if args.stream and not (args.frames and args.sound and re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", args.size)):
        parser.error("--stream needs --frames, --sound and --size WIDTHxHEIGHT")
    changes = changes_of(args, parser)
    with cli(prog):
        args.out = args.out or ("" if args.stream else "localized.gif")
        if not args.stream and Path(args.out).suffix.lower() not in ENDS:
            raise InputError(args.out, f"the film is one of {', '.join(ENDS)}; name it so")
        path = best_checkpoint("stmnet", args.checkpoint)
        predictor = load(path, select_device(args.device), **changes)
        live(predictor, args) if args.stream else offline(predictor, args, path)


if __name__ == "__main__":
    main()
