"""The contact sheet of an evaluation: a video's frames by column; picture, map, boxes and ground truth by row."""
from common.io import overlay

from .score import enlarged

SHOWN = 3  # videos
TILE = (112, 112)
LEGEND = "cyan: predicted · lime: the truth · map: from dark violet, its least, to pale yellow, its greatest"


def rows_of(video, maps, boxes, said) -> tuple:
    """A video's four rows of pictures, the captions of the last three, and its times: maps (T, h, w), boxes T of (n, 5), said: T
    class names."""
    heats, frames = enlarged(maps), video.frames
    rows = [[overlay(f, size=TILE) for f in frames],
            [overlay(f, heatmap=h, size=TILE) for f, h in zip(frames, heats)],
            [overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(frames, boxes)],
            [overlay(f, gt=b, size=TILE) for f, b in zip(frames, video.boxes)]]
    captions = ["map", f"predicted boxes; said: {' | '.join(said)}", f"ground truth; sounding: {' | '.join(video.labels)}"]
    return rows, captions, [f"{t:.1f} s" for t in video.times]


def sheet(parts) -> dict:
    """What `rows_of` gives, of some videos → the arguments of common.io.contact_sheet but the path."""
    times = [own for _, _, own in parts]
    same = all(own == times[0] for own in times)  # then they head the columns
    captions = [c for _, captions, own in parts for c in ("" if same else ", ".join(own), *captions)]
    return {"rows": [row for rows, _, _ in parts for row in rows], "captions": captions, "columns": times[0] if same else (),
            "legend": LEGEND}
