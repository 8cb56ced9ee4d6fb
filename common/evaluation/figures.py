"""Drawings of an evaluation: heatmaps over images, in a contact sheet or alone with their boxes."""
import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import metrics
from common.io import (InputError, contact_sheet, keep_inputs, overlay, read_image, write_image,
                       write_json)
from common.io.drawing import SCALE_BAR
from common.io.files import to_numpy
from common.training import Parser

from . import page
from .page.demo import serve
from .page.galleries import Model, locate_clips, trained_on
from .scoring import CONTROLS, make_batch
from .tables import HEADINGS
from .test_sets import SIZE

SHEET_ROWS, TILE = 8, (144, 144)
LEGEND = "lime: the ground truth · heatmap: from dark violet, its minimum, to pale yellow"


def draw_samples(predictor, test_set, audio: dict, headings: dict) -> dict:
    """The first samples with a source, as arguments of `contact_sheet`: a row for each image.

    A row has the ground truth and the heatmap of each column in `headings` and of the controls. In
    interactive sets it has those of the first column, for each source of the image."""
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
        heatmaps = {c: metrics.normalise(metrics.resize(heatmaps[c], SIZE, test_set.protocol,
                                                        test_set.align_corners))
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


def localization_parser(method: str, about: str) -> Parser:
    """The flags that every method's `localize` for images has."""
    parser = Parser(prog=f"python -m {method}.localize", description=about)
    for name, default, text in (
            ("image", "", "the image"),
            ("audio", "", "the audio (wav, flac, ogg; any rate), of which the model takes as "
             "much as it was trained on, from the start; or several files in quotes"),
            ("out", "localized.png", "image to write, or .html for a page beside it; the boxes go "
             "to the same name with .json"),
            ("checkpoint", "", "default: best.pt of the newest run"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto"),
            ("demo", 0, "instead of files: the port of a page on 127.0.0.1 that asks for them")):
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    return parser


def write_localization(args, model: Model, facts: dict) -> None:
    """Run the demo, or write OUT.png, the image with the heatmap and boxes of each audio clip, and
    what `write_answers` does, of silence and noise too. Raises InputError."""
    if args.demo:
        return serve(model, args.demo)
    out, image_path, phrase = Path(args.out), args.image, getattr(args, "phrase", "")
    if not image_path or bool(args.audio) == bool(phrase):
        query = "either audio or a phrase" if hasattr(args, "phrase") else "audio"
        raise InputError("--image, --audio", f"an image is needed, and {query}")
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(out, "the overlay is a PNG; name it so, or .html to get a page too")
    image, name, tiles, records = read_image(image_path), Path(image_path).name, [], []
    try:
        is_one = phrase or os.path.exists(args.audio)  # False for a name that is too long
        files = [args.audio] if is_one else shlex.split(args.audio)
    except ValueError as error:  # a quote that does not end
        raise InputError("--audio", error) from None
    if not files:
        raise InputError("--audio", "names no file")
    keep_inputs([out, out.with_suffix(".png"), out.with_suffix(".json")],
                [image_path, *files, args.checkpoint])
    clips = ([replace(model.locate(image, phrase), name=phrase)] if phrase else
             locate_clips(model, image, [(Path(file).name, file) for file in files]))
    size = np.array([image.shape[1], image.shape[0]] * 2)
    for file, clip in zip([*files, "silence", "noise"], clips):
        heatmap = None if clip.heatmaps is None else metrics.normalise(clip.heatmaps)[0]
        boxes, scores = to_numpy(clip.boxes[0])[:, :4], to_numpy(clip.boxes[0])[:, 4:].flatten()
        tiles.append(overlay(image, heatmap, boxes, labels=[f"{score:.2f}" for score in scores]))
        if heatmap is not None and min(image.shape[:2]) >= 160:
            tiles[-1][-18:-6, -70:-6] = SCALE_BAR
        records.append({"audio": file, "boxes": boxes * size, "scores": scores})
    if len(files) > 1:
        tiles = [contact_sheet([tiles], [clip.name for clip in clips], legend=LEGEND)]
    write_image(out.with_suffix(".png"), tiles[0])
    sample = page.Sample(name, [image], clips)
    write_answers(args, model, sample, {**facts, "image": image_path}, records)


def write_answers(args, model: Model, sample, facts: dict, records: list, **gallery) -> None:
    """Write OUT.json with a record of each clip of a Sample, the last two of silence and noise, and
    the page OUT.html if that is --out; print what was found. gallery: settings of the Gallery."""
    out, about, clips = Path(args.out), trained_on(model.config), sample.clips
    means = [{key: float(to_numpy(x).mean()) for key, x in clip.facts.items()} for clip in clips]
    records = [{"audio": clip.name, **mean, **record}
               for clip, mean, record in zip(clips, means, records)]
    write_json(out.with_suffix(".json"), {**facts, "checkpoint": args.checkpoint, "model": about,
                                          **records[0], "clips": records})
    if out.suffix.lower() == ".html":
        page.write_page(out, f"{model.method}: {sample.name}",
                        [page.Gallery("", [sample], **gallery)], note=f"{model.method}, {about}.")
    print(f"{out}: {model.method}, {about}")
    for k, (clip, mean) in enumerate(zip(clips, means)):
        where = f" in {len(sample.frames)} frames" if len(sample.frames) > 1 else ""
        said = [f"{key} {x:.2f}" for key, x in mean.items()] + sorted(set(clip.labels))
        count = sum(map(len, clip.boxes))
        print(f"{clip.name}: {count} box{'es' * (count != 1)}{', '.join([where, *said])}")
        for box in records[k].get("boxes", ()) if k in (0, *range(len(clips) - 2)) else ():
            print(f"  {', '.join(f'{x:.0f}' for x in box)} (x0, y0, x1, y1 in pixels)")
