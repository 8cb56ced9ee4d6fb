"""Drawings of an evaluation: heatmaps over images, in a contact sheet or alone with their boxes."""
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import metrics
from common.io import (InputError, contact_sheet, keep_inputs, overlay, read_image, write_image,
                       write_json)
from common.io.drawing import scale_bar
from common.io.files import to_numpy
from common.training import Parser

from . import page
from .page.demo import serve
from .page.galleries import Model, locate_clips, trained_on
from .scoring import CONTROLS, PROTOCOL, make_batch
from .tables import HEADINGS
from .test_sets import SIZE

SHEET_ROWS, TILE = 8, (144, 144)
LEGEND = "lime: the ground truth · heatmap: from dark violet, its minimum, to pale yellow"


def draw_samples(predictor, test_set, audio: dict, headings: dict) -> dict:
    """The first samples with a source, as arguments of `contact_sheet`: a row for each image.

    A row has the ground truth and the heatmap of each column in `headings` and of the controls. In
    interactive sets it has those of the first column, for each source of the image.
    """
    is_interactive, members = "interactive" in test_set.metric_groups, {}
    for i in np.flatnonzero(test_set.has_source):
        members.setdefault(test_set.groups[i] if is_interactive else i, []).append(int(i))
    if is_interactive:
        headings = dict([*headings.items()][:1])
    else:
        headings = {**headings, **{c: HEADINGS[c] for c in CONTROLS.values()}}
    sheet = {"rows": [], "columns": [], "captions": [], "legend": LEGEND}
    for samples in list(members.values())[:SHEET_ROWS]:
        heatmaps = predictor.predict(make_batch(test_set, audio, samples)).heatmaps
        heatmaps = {c: unit(heatmaps[c], test_set.align_corners, test_set.protocol)
                    for c in headings if c in heatmaps}
        row, columns = [], []
        for k, i in enumerate(samples):
            image, number = test_set.image(i), f" {k + 1}" if is_interactive else ""
            row += [overlay(image, gt=test_set.gt_map(i), size=TILE),
                    *(overlay(image, maps[k], size=TILE) for maps in heatmaps.values())]
            columns += [f"ground truth{number}", *(headings[c] + number for c in heatmaps)]
        sheet["rows"].append(row)
        sheet["columns"] = max(sheet["columns"], columns, key=len)
        labels = [str(test_set.labels[i] or test_set.ids[i]) for i in samples]
        sheet["captions"].append(" | ".join(labels))
    return sheet


def unit(heatmaps, align_corners=False, protocol=PROTOCOL):
    """(n, h, w) → (n, SIZE, SIZE), each from 0 to 1."""
    return metrics.normalise(metrics.resize(heatmaps, SIZE, protocol, align_corners))


def localization_parser(method: str, about: str) -> Parser:
    """The flags that every method's `localize` for images has."""
    parser = Parser(prog=f"python -m {method}.localize", description=about)
    for name, default, text in (
            ("image", "", "the image"),
            ("audio", "", "the audio (wav, flac, ogg; any rate), of which the middle is used as in "
             "the checkpoint's --seconds and --crop; or several files with spaces between them"),
            ("out", "localized.png", "image to write, or .html for a page beside it; the boxes go "
             "to the same name with .json"),
            ("checkpoint", "", "default: best.pt of the newest run"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto"),
            ("demo", 0, "instead of files: the port of a page on 127.0.0.1 that asks for them")):
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    return parser


def write_localization(args, model: Model, facts: dict) -> None:
    """Run the demo, or write OUT.png, the image with the heatmap and boxes of each audio clip;
    OUT.json with boxes in pixels; and the page OUT.html if that is --out. Prints the boxes. JSON
    and page have silence and noise beside the audio. args: of `localization_parser`. InputError.
    """
    if args.demo:
        return serve(model, args.demo)
    out, image_path, phrase = Path(args.out), args.image, getattr(args, "phrase", "")
    if not image_path or bool(args.audio) == bool(phrase):
        raise InputError("--image, --audio", "both are needed, or a phrase if there is --phrase")
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(out, "the overlay is a PNG; name it so, or .html to get a page too")
    image, name, scores = read_image(image_path), Path(image_path).name, []
    files = [args.audio] if phrase or Path(args.audio).exists() else shlex.split(args.audio)
    written = [out, out.with_suffix(".png"), out.with_suffix(".json")]
    keep_inputs(written, [image_path, *files, args.checkpoint])
    if phrase:
        clips = [replace(model.locate(image, phrase), name=phrase)]
    else:
        clips = locate_clips(model, image, {Path(file).name: file for file in files})
    tiles, size = [], torch.tensor([image.shape[1], image.shape[0]] * 2)
    for clip in clips:
        heatmap = None if clip.heatmaps is None else metrics.normalise(clip.heatmaps)[0]
        boxes = to_numpy(clip.boxes[0])
        scores.append([f"{score:.2f}" for score in boxes[:, 4:].flatten()])
        tiles.append(overlay(image, heatmap, boxes[:, :4], labels=scores[-1]))
        if heatmap is not None and min(image.shape[:2]) >= 160:
            tiles[-1][-18:-6, -70:-6] = scale_bar()
    records = [{"audio": file, **clip.facts, "boxes": clip.boxes[0][:, :4] * size,
                "scores": clip.boxes[0][:, 4:].flatten()}
               for file, clip in zip([*files, "silence", "noise"], clips)]
    if len(files) > 1:
        tiles = [contact_sheet([tiles], [clip.name for clip in clips], legend=LEGEND)]
    write_image(out.with_suffix(".png"), tiles[0])
    facts = {**facts, "image": image_path, "checkpoint": args.checkpoint,
             "model": trained_on(model.config)}
    write_json(out.with_suffix(".json"), {**facts, **records[0], "clips": records})
    if out.suffix.lower() == ".html":
        page.write_page(out, f"{model.method}: {name}",
                        [page.Gallery("", [page.Sample(name, [image], clips)])],
                        note=f"{model.method}, {trained_on(model.config)}.")
    print(f"{out}: {model.method}, {trained_on(model.config)}")
    for clip, record in zip(clips, records):
        facts = "".join(f", {key} {value:.2f}" for key, value in clip.facts.items())
        print(f"{clip.name}: {len(clip.boxes[0])} boxes{facts}")
        for box in record["boxes"].tolist() if record["audio"] in files else ():
            print(f"  {', '.join(f'{x:.0f}' for x in box)} (x0, y0, x1, y1 in pixels)")


def write_video_page(out, model: Model, args, audio, frames: list, size: int, rules: dict) -> None:
    """The page of a video. frames: images with heatmap (h, w), boxes (n, 5) and class name, one in
    1 / args.fps seconds; audio: the file of the sound track; size, rules: of the Gallery."""
    images, heatmaps, boxes, labels = map(list, zip(*frames))
    waveform, rate = model.read(audio)
    missing = round(len(frames) / args.fps * rate) - len(waveform)  # negative: it is cut
    clip = page.Clip("sound track", torch.nn.functional.pad(waveform, (0, missing)), rate,
                     torch.stack(heatmaps), boxes, labels)
    times = [(k + 0.5) / args.fps for k in range(len(frames))]
    sample = page.Sample(Path(args.video).name, images, [clip], times=times)
    page.write_page(out, f"{model.method}: {sample.name}", [page.Gallery("", [sample], size,
                    rules=rules)], note=f"{model.method}, {trained_on(model.config)}.")
