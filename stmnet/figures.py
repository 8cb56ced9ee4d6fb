"""The contact sheet of an evaluation: frames in columns; image, heatmap, boxes and gt in rows."""
from common.io import overlay

from .scoring import enlarge

NUM_VIDEOS = 3  # of a test set
TILE = (112, 112)
LEGEND = "cyan: predicted · lime: ground truth · heatmap: from dark violet, its least, to yellow"


def draw_video_rows(sample) -> tuple:
    """Four rows of tiles of a video's own clip, and their captions."""
    frames, own = sample.frames, sample.clips[0]
    rows = [[overlay(f, size=TILE) for f in frames],
            [overlay(f, heatmap=h, size=TILE) for f, h in zip(frames, enlarge(own.heatmaps))],
            [overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(frames, own.boxes)],
            [overlay(f, gt=gt, size=TILE) for f, gt in zip(frames, own.gt)]]
    captions = [", ".join(f"{t:.1f} s" for t in sample.times), "heatmap",
                f"predicted boxes; class: {' | '.join(own.labels)}",
                f"ground truth; class: {' | '.join(sample.labels)}"]
    return rows, captions


def contact_sheet(samples) -> dict:
    """The rows of some videos, as arguments of common.io.contact_sheet."""
    videos = [draw_video_rows(sample) for sample in samples]
    return {"rows": [row for rows, _ in videos for row in rows], "legend": LEGEND,
            "captions": [caption for _, captions in videos for caption in captions]}
