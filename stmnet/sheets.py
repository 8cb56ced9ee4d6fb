"""The contact sheet of an evaluation: a video's frames by column; picture, map, boxes and ground truth by row."""
from common.io import overlay

from .score import enlarged

SHOWN = 3  # videos
TILE = (112, 112)
ROWS = ("", "map", "predicted boxes", "ground truth")
LEGEND = "cyan: predicted · lime: the truth · map: from dark violet, its least, to pale yellow, its greatest"


def rows_of(video, frames, maps, boxes, said) -> tuple[list, list]:
    """A video's four rows of pictures, and their captions: R scored frames, maps (R, h, w), boxes R of (n, 5), said: R class names."""
    heats = enlarged(maps)
    rows = [[overlay(f, size=TILE) for f in frames],
            [overlay(f, heat=h, size=TILE) for f, h in zip(frames, heats)],
            [overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(frames, boxes)],
            [overlay(f, truth=b, size=TILE) for f, b in zip(frames, video.boxes)]]
    heard = [x or "?" for x in video.labels]
    return rows, [*ROWS[:2], f"{ROWS[2]}; said: {' | '.join(said)}", f"{ROWS[3]}; sounding: {' | '.join(heard)}"]


def sheet(parts, times) -> dict:
    """(rows, captions) of videos, times (T,) of the widest → the arguments of common.io.contact_sheet but the path."""
    return {"rows": [row for rows, _ in parts for row in rows], "captions": [c for _, captions in parts for c in captions],
            "columns": [f"{t:.1f} s" for t in times], "legend": LEGEND}
