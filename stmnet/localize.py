"""Localize what sounds in a video of your own, frame by frame.

`python -m stmnet.localize --video cello.mp4 --out found.gif`, or `--video FOLDER` with 0000.jpg,
0001.jpg, … and one audio file, writes the frames with heatmap and boxes, and found.json.

Live: `--stream --frames <(ffmpeg …) --sound <(ffmpeg …) --size 320x240 --fps 4` reads raw rgb24
frames and raw s16le mono 16 kHz audio from two paths (files, named pipes, /dev/fd/N, or - for
standard input) and writes a line of JSON as soon as the second half of a frame's audio is there.
Memory is K steps and one audio segment, however long it runs.
"""
import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from common.io import InputError, append_jsonl, overlay, write_json
from common.training import Parser, best_checkpoint, cli, select_device

from .backbones.vggish import AudioStream, segments_at
from .evaluate import add_model_flags, changed_settings, load_predictor
from .memory import EMPTY
from .scoring import enlarge
from .video_io import open_video, write_video

BLOCK = 16  # frames at once


def frame_record(number, moment, image, boxes, label, confidence) -> dict:
    """A frame's result: boxes x0, y0, x1, y1 in pixels with scores, class and its probability."""
    height, width = image.shape[:2]
    return {"frame": number, "time": round(float(moment), 4), "label": label,
            "confidence": round(float(confidence), 4), "scores": boxes[:, 4].tolist(),
            "boxes": (boxes[:, :4] * torch.tensor([width, height, width, height])).tolist()}


def localize(predictor, video):
    """A VideoFile → for each frame its image with heatmap and boxes, and its `frame_record`."""
    memory, config = EMPTY, predictor.config
    for first in range(0, len(video.frames), BLOCK):
        frames = [video.image(k) for k in range(first, min(first + BLOCK, len(video.frames)))]
        times = video.times(first, len(frames))
        segments = segments_at(video.waveform, times, config.samples)
        prediction = predictor.predict(predictor.encode_frames(frames), segments, memory)
        memory, heatmaps = prediction.memory, enlarge(prediction.heatmaps[config.box_map])
        for k, boxes in enumerate(predictor.boxes(frames, prediction)):
            label = prediction.labels[k]
            image = overlay(frames[k], heatmap=heatmaps[k], boxes=boxes[:, :4],
                            labels=[label] * len(boxes))
            yield image, frame_record(first + k, times[k], frames[k], boxes, label,
                                      prediction.confidence[k])


def localize_file(predictor, args, checkpoint):
    out, records = Path(args.out), []
    if out.resolve() == Path(args.video).resolve():
        raise InputError(out, "would take the place of the video itself")

    def images(video):
        for image, record in localize(predictor, video):
            records.append(record)
            yield image

    with open_video(args.video, args.fps) as video:
        write_video(out, images(video), args.fps, video.audio)
    write_json(out.with_suffix(".json"), {
        "video": args.video, "fps": args.fps, "frames": records, "K": predictor.config.K,
        "box_map": predictor.config.box_map, "checkpoint": str(checkpoint)})
    labels = ", ".join(sorted({record["label"] for record in records}))
    print(f"{out}: {len(records)} frames, {sum(len(r['boxes']) for r in records)} boxes; {labels}")


def read_frames(file, path, width: int, height: int):
    """(H, W, 3) uint8, one after the other. Raises InputError if the stream ends in a frame."""
    size = width * height * 3
    while data := file.read(size):
        if len(data) < size:
            raise InputError(path, f"ends within a frame: {len(data)} of {size} bytes")
        yield np.frombuffer(bytearray(data), np.uint8).reshape(height, width, 3)


def localize_stream(predictor, frames, audio: AudioStream, fps: float, out) -> int:
    """Frames one by one → a `frame_record` each to `out`, flushed. Returns how many."""
    memory, count, started = EMPTY, 0, None
    for image in frames:
        started = started or time.perf_counter()
        moment = (count + 0.5) / fps
        features = predictor.encode_frames([image])
        prediction = predictor.predict(features, audio.segment(moment)[None], memory)
        memory, boxes = prediction.memory, predictor.boxes([image], prediction)[0]
        append_jsonl(out, frame_record(count, moment, image, boxes, prediction.labels[0],
                                       prediction.confidence[0]))
        count += 1
    if count:
        rate = count / (time.perf_counter() - started)
        print(f"{count} frames, {rate:.1f} a second", file=sys.stderr)
    return count


def localize_live(predictor, args):
    if args.frames == args.sound == "-":
        raise InputError("--sound", "frames are read from standard input already")
    with ExitStack() as stack:
        frames, audio = (sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
                         for name in (args.frames, args.sound))
        out = sys.stdout
        if args.out:
            out = stack.enter_context(open(args.out, "w", encoding="utf-8"))
        images = read_frames(frames, args.frames, *map(int, args.size.split("x")))
        audio = AudioStream(audio, predictor.config.samples)
        try:
            count = localize_stream(predictor, images, audio, args.fps, out)
        except BrokenPipeError:  # the reader of the lines has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if not count:
            raise InputError(args.frames, "no frame in it")


def main(argv=None):
    prog = "python -m stmnet.localize"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    add_model_flags(parser)
    add = parser.add_argument
    add("--video", default="", help="a folder with numbered images and one audio file, or a file "
        "that ffmpeg reads")
    add("--out", default="", help="GIF or .mp4 to write [localized.gif]; boxes go to the same name "
        "with .json. With --stream a file of JSON lines [standard output]")
    add("--fps", type=float, default=4.0, help="frames a second of the folder or stream, or to "
        "take of the file [4]")
    add("--stream", action="store_true", help="read raw frames and audio as they come")
    add("--frames", default="", help="with --stream: path of raw rgb24 frames, or -")
    add("--sound", default="", help="with --stream: path of raw s16le mono 16 kHz audio, or -")
    add("--size", default="", metavar="WxH", help="with --stream: size of the frames")
    args = parser.parse_args(argv)
    if bool(args.video) == args.stream:
        parser.error("either --video or --stream")
    if not 0.1 <= args.fps <= 100:
        parser.error("--fps is between 0.1 and 100")
    is_size = re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", args.size)
    if args.stream and not (args.frames and args.sound and is_size):
        parser.error("--stream needs --frames, --sound and --size WIDTHxHEIGHT")
    changes = changed_settings(args, parser)
    with cli(prog):
        args.out = args.out or ("" if args.stream else "localized.gif")
        if not args.stream and Path(args.out).suffix.lower() not in (".gif", ".mp4"):
            raise InputError(args.out, "the output is a .gif or an .mp4: name it so")
        checkpoint = best_checkpoint("stmnet", args.checkpoint)
        predictor = load_predictor(checkpoint, select_device(args.device), **changes)
        if args.stream:
            localize_live(predictor, args)
        else:
            localize_file(predictor, args, checkpoint)


if __name__ == "__main__":
    main()
