"""The contact sheet of an evaluation: a video's frames by column; picture, map, boxes and ground truth by row."""
from common.io import overlay

from .score import enlarged

SHOWN = 3  # videos
TILE = (112, 112)
ROWS = ("", "map", "predicted boxes", "ground truth")
LEGEND = "cyan: predicted · lime: the truth · map: from dark violet, its least, to pale yellow, its greatest"


def rows_of(video, maps, boxes, said) -> tuple:
    """A video's four rows of pictures, their captions, and times: maps (T, h, w), boxes T of (n, 5), said: T class names."""
    heats, frames = enlarged(maps), video.frames
    rows = [[overlay(f, size=TILE) for f in frames],
            [overlay(f, heat=h, size=TILE) for f, h in zip(frames, heats)],
            [overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(frames, boxes)],
            [overlay(f, truth=b, size=TILE) for f, b in zip(frames, video.boxes)]]
    heard = [x or "?" for x in video.labels]
    return rows, [*ROWS[:2], f"{ROWS[2]}; said: {' | '.join(said)}", f"{ROWS[3]}; sounding: {' | '.join(heard)}"], video.times


def sheet(parts) -> dict:
    """What `rows_of` gives, of some videos → the arguments of common.io.contact_sheet but the path; the columns are of the longest."""
    return {"rows": [row for rows, _, _ in parts for row in rows], "captions": [c for _, captions, _ in parts for c in captions],
            "columns": [f"{t:.1f} s" for t in max((times for _, _, times in parts), key=len)], "legend": LEGEND}
