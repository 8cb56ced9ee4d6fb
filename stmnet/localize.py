"""Localize what sounds in any video, frame by frame.

`python -m stmnet.localize --video cello.mp4 --out found.gif` writes the frames with heatmap and
boxes, and found.json. `--demo 8000` is a page that asks for an image and audio.

Live: `--stream --frames <(ffmpeg …) --sound <(ffmpeg …) --size 320x240 --fps 4` reads raw frames
and audio, and writes a line of JSON as soon as a frame's audio segment is there.
"""
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from common import io
from common.benchmarks.videos import open_video, write_video
from common.evaluation import Model, locate_clips, page, serve, write_answers
from common.evaluation.frames import PAGE_RULES, SIZE, enlarge
from common.io import InputError
from common.training import (Parser, add_flags, best_checkpoint, check_settings, cli,
                             select_device)

from .backbones.vggish import RATE, AudioStream, segments_at
from .config import PRESETS
from .evaluate import BLOCK, BOXES, load_predictor

PAGE_FRAMES = 120  # at most, in the page and beside silence and noise


def localize(predictor, blocks, fps: float):
    """Blocks of T frames, times, segments (T, samples) → each frame, its heatmap (h, w), boxes
    (n, 5), and its record: boxes x0, y0, x1, y1 in pixels with scores, class and probability."""
    memories, number = predictor.start(fps), 0
    for frames, times, segments in blocks:
        clip = predictor.locate(*predictor.encode(frames), segments, memories, number)
        for k, (frame, boxes) in enumerate(zip(frames, clip.boxes)):
            pixels = boxes[:, :4] * torch.tensor([frame.shape[1], frame.shape[0]] * 2)
            yield frame, clip.heatmaps[k], boxes, {
                "frame": number, "time": round(float(times[k]), 4), "label": clip.labels[k],
                **{name: round(float(x[k]), 4) for name, x in clip.facts.items()},
                "boxes": pixels.tolist(), "scores": boxes[:, 4].tolist()}
            number += 1


def blocks_of_file(paths, audio, fps: float, samples: int):
    """The files of a video in blocks of frames, as `localize` takes them."""
    waveform = io.read_audio(audio, RATE)[0]
    for first in range(0, len(paths), BLOCK):
        frames = [io.read_image(path) for path in paths[first:first + BLOCK]]
        times = (first + np.arange(len(frames)) + 0.5) / fps
        yield frames, times, segments_at(waveform, times, samples)


def blocks_of_stream(frames, audio: AudioStream, width: int, height: int, fps: float):
    """Frames of a file of raw rgb24, one by one, as `localize` takes them."""
    number, size = 0, width * height * 3
    while data := frames.read(size):
        if len(data) < size:
            raise InputError("--frames", f"ends within a frame: {len(data)} of {size} bytes")
        frame, moment = np.frombuffer(bytearray(data), np.uint8), (number + 0.5) / fps
        yield [frame.reshape(height, width, 3)], [moment], audio.segment(moment)[None]
        number += 1


def locate(predictor, encoded, fps: float, waveform) -> page.Clip:
    """Images, encoded, that are fps a second, with a waveform (n,)."""
    times = (np.arange(encoded[0].shape[1]) + 0.5) / fps
    segments = segments_at(waveform, times, predictor.config.samples)
    return predictor.locate(*encoded, segments, predictor.start(fps))


def localize_file(predictor, args, model):
    out, records, images, config = Path(args.out), [], [], predictor.config
    gif = out.with_suffix(".gif") if out.suffix.lower() == ".html" else out
    videos = Path(args.video).glob("*") if Path(args.video).is_dir() else [args.video]
    io.keep_inputs([out, gif, out.with_suffix(".json")], [*videos, args.checkpoint])

    def overlays(blocks):
        for frame, heatmap, boxes, record in localize(predictor, blocks, args.fps):
            records.append(record)
            if len(images) < PAGE_FRAMES:
                images.append(frame)
            labels = [f"{record['label']} {score:.2f}" for score in record["scores"]]
            yield io.overlay(frame, enlarge(heatmap[None])[0], boxes[:, :4], labels=labels)

    with open_video(args.video, args.fps) as (paths, audio):
        blocks = blocks_of_file(paths, audio, args.fps, config.samples)
        write_video(gif, overlays(blocks), args.fps, audio)
        encoded = predictor.encode(images)
        clips = locate_clips(model._replace(
            locate=lambda images, waveform: locate(predictor, encoded, args.fps, waveform)),
            images, [("sound track", audio)])
    for clip in clips:  # as long as its frames
        missing = round(len(images) / args.fps * RATE) - len(clip.waveform)
        clip.waveform = torch.nn.functional.pad(clip.waveform, (0, missing))
    times = (np.arange(len(images)) + 0.5) / args.fps
    write_answers(args, model, page.Sample(Path(args.video).name, images, clips, times=times), {
        "video": args.video, "fps": args.fps, "frames": records, "box_map": config.box_map,
        "memory_seconds": config.memory_seconds}, [{}] * len(clips), size=SIZE, rules=PAGE_RULES)


def localize_stream(predictor, args):
    io.keep_inputs(filter(None, [args.out]), [args.frames, args.sound, args.checkpoint])
    with ExitStack() as stack:
        frames, audio = (sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
                         for name in (args.frames, args.sound))
        out = stack.enter_context(open(args.out, "w", encoding="utf-8")) if args.out else sys.stdout
        audio, count, start = AudioStream(audio, predictor.config.samples), 0, time.perf_counter()
        blocks = blocks_of_stream(frames, audio, *map(int, args.size.split("x")), args.fps)
        for *_, record in localize(predictor, blocks, args.fps):
            io.append_jsonl(out, record)
            count += 1
    if not count:
        raise InputError(args.frames, "no frame in it")
    print(f"{count} frames, {count / (time.perf_counter() - start):.1f} a second", file=sys.stderr)


def main(argv=None):
    parser = Parser(prog="python -m stmnet.localize", description=__doc__.splitlines()[0])
    settings = ("memory_seconds", *BOXES)
    add_flags(parser, PRESETS, settings)
    add = parser.add_argument
    add("--checkpoint", default="", help="default: best.pt of the newest run")
    add("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    add("--video", default="", help="a folder with numbered images and one audio file, or a file")
    add("--demo", type=int, default=0, help="port of a page on 127.0.0.1 that asks for an image "
        "and audio, of which the middle --segment-seconds are used")
    add("--out", default="", help=".gif, .mp4, .html to write, boxes: .json [localized.gif]; with "
        "--stream a file of JSON lines [standard output]")
    add("--fps", type=float, default=4.0, help="frames a second of the input [4]")
    add("--stream", action="store_true", help="read raw frames and audio as they come")
    add("--frames", default="", help="with --stream: path of raw rgb24 frames, or -")
    add("--sound", default="", help="with --stream: path of raw s16le mono 16 kHz audio, or -")
    add("--size", default="", metavar="WxH", help="with --stream: size of the frames")
    args = parser.parse_args(argv)
    if bool(args.video) + args.stream + bool(args.demo) != 1:
        parser.error("either --video or --stream or --demo")
    if not 0.1 <= args.fps <= 100:
        parser.error("--fps is between 0.1 and 100")
    is_size = re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", args.size)
    if args.stream and not (args.frames and args.sound and is_size):
        parser.error("--stream needs --frames, --sound and --size WIDTHxHEIGHT")
    if args.frames == args.sound == "-":
        parser.error("one of --frames and --sound is standard input, not both")
    changes = check_settings(parser, PRESETS, args, settings)
    args.out = args.out or ("" if args.stream else "localized.gif")
    if not args.stream and Path(args.out).suffix.lower() not in (".gif", ".mp4", ".html"):
        parser.error(f"--out {args.out} is neither a .gif nor an .mp4 nor an .html")
    with cli(parser.prog):
        args.checkpoint = str(best_checkpoint("stmnet", args.checkpoint))
        predictor = load_predictor(args.checkpoint, select_device(args.device), **changes)
        model = Model("stmnet", predictor.config, lambda path: io.read_audio(path, RATE),
                      lambda image, waveform: locate(predictor, predictor.encode([image]),
                                                     RATE / len(waveform), waveform))
        if args.demo:
            serve(model, args.demo)
        localize_stream(predictor, args) if args.stream else localize_file(predictor, args, model)


if __name__ == "__main__":
    main()
