"""The boxes and lists of the Space-Time Memory Network's authors (BMVC 2021), commit 9cac71a, MIT.

    ROOT/metadata/annotations/ID/annotations.xml  CVAT 1.1: a box for every frame of a video
    ROOT/metadata/testSet.txt, test.csv           the test videos of AVE, AudioSet-Instrument
    ROOT/video_frames/ID/0000.jpg …               all frames, at the video's own rate
    ROOT/audio/ID.wav

The videos have 10 s; so a second of them has a tenth of their frames. A file without a track nearly
always is one that no annotator opened. Such videos are counted, and are no silent videos.
"""
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from common.io import InputError, read_lines
from common.training import dist

from .annotations import MAX_BOXES, check_name, check_rows, clip_boxes, read_rows, read_xml
from .samples import Sample

MAX_XML, MAX_FRAMES = 2**23, 10**5  # bytes; frames of a video
SECONDS = 10  # of every annotated video
BRASS = ("french horn", "trombone", "trumpet")  # one class in the authors' code
INSTRUMENTS = ("accordion", "guitar", "banjo", "cello", "drum", "flute", "harmonica", "harp",
               "marimba", "piano", "saxophone", "brass", "violin")
EDGES = ("xtl", "ytl", "xbr", "ybr")


def read_cvat(path) -> tuple:
    """→ the number of frames of a video; its boxes, {number of a frame, from 0: (n, 4) x0, y0, x1,
    y1 in [0, 1]}; whether the task was changed after it was created (opened). Raises InputError."""
    root = read_xml(path, MAX_XML)
    try:
        task = root.find("meta/task")
        frames = int(task.findtext("size"))
        size = [float(task.findtext(f"original_size/{side}")) for side in ("width", "height")]
        is_opened = task.findtext("created")[:19] != task.findtext("updated")[:19]
        found = [(int(box.get("frame")), [float(box.get(edge)) for edge in EDGES])
                 for box in root.iterfind("track/box") if box.get("outside") != "1"]  # else a pause
    except (AttributeError, TypeError, ValueError):
        raise InputError(path, "not an annotation of a video by CVAT 1.1") from None
    if not (1 <= frames <= MAX_FRAMES and min(size) >= 1 and np.isfinite(size).all()):
        raise InputError(path, f"{frames} frames of {size[0]:g} × {size[1]:g} pixels")
    boxes = {}
    for frame, box in sorted(found):
        is_box = np.isfinite(box).all() and 0 <= frame < frames
        if not is_box or len(boxes.setdefault(frame, [])) >= MAX_BOXES:
            raise InputError(path, f"frame {frame} of {frames}: not a box, or too many")
        boxes[frame].append(box)
    boxes = {k: clip_boxes(np.array(b) / np.array(size * 2)) for k, b in boxes.items()}
    return frames, boxes, is_opened


def box_samples(root, lists):
    """A sample for each annotated frame of the listed videos. Prints how many have boxes."""
    labels, counts = read_labels(lists), Counter()
    for name, label in labels.items():
        path = Path(root) / "metadata" / "annotations" / name / "annotations.xml"
        if not path.is_file():
            counts["missing"] += 1
            continue
        frames, boxes, is_opened = read_cvat(path)
        counts["boxes" if boxes else "empty" if is_opened else "unopened"] += 1
        for k, found in boxes.items():
            yield Sample(f"{name}/{k}", Path(root) / "video_frames" / name / f"{k:04d}.jpg",
                         Path(root) / "audio" / f"{name}.wav", found, group=name, label=label,
                         seconds=(k * SECONDS / frames, (k + 1) * SECONDS / frames))
    if dist.rank() == 0:
        print(f"{lists}: {len(labels)} videos, {counts['boxes']} with boxes, {counts['unopened']} "
              f"never opened by an annotator, {counts['empty']} left empty, {counts['missing']} "
              "without a file", file=sys.stderr)


def read_labels(path) -> dict:
    """id → label, of event&id&quality&start&end (AVE) or keyword,start,end,evt,target,multi."""
    lines = read_lines(path)
    if lines and lines[0].count("&") > 3:
        rows = [line.rsplit("&", 4) for line in lines]
        check_rows(path, rows, "event&id&quality&start&end", (3, 4), "&")
        return {check_name(path, row[1]): row[0] for row in rows}
    return {row[0]: ", ".join(dict.fromkeys(instruments(row[4]))) for row in _instrument_rows(path)}


def instrument_clips(root, lists):
    """AudioSet-Instrument to train on: a sample for each row, whose label is its target, "flute,
    harp" if there are several; frames as those of AVE."""
    for name, start, end, _, target, _ in _instrument_rows(lists):
        yield Sample(name, Path(root) / "frames" / name, Path(root) / "audio" / f"{name}.wav", None,
                     group=name, label=target, seconds=(0.0, float(end) - float(start)))


def instruments(target: str) -> list:
    """"flute, trumpet" → ["flute", "brass"]: AudioSet-Instrument's 15 names as 13 classes."""
    return ["brass" if name in BRASS else name for name in target.split(", ")]


def _instrument_rows(path) -> list:
    rows = check_rows(path, read_rows(path), "keyword,start,end,evt,target,multi")
    for row in rows:
        check_name(path, row[0])
        try:
            is_clip = 0 <= float(row[1]) < float(row[2]) < float("inf") and row[4].strip()
        except ValueError:
            is_clip = False
        if not is_clip or not set(instruments(row[4])) <= set(INSTRUMENTS):
            raise InputError(path, f"{row[0]}: not a clip of instruments: {','.join(row)[:80]}")
    return rows
