"""The contact sheet of an evaluation: frames in columns; image, heatmap, boxes and gt in rows."""
from common.io import overlay

from .scoring import enlarge

NUM_VIDEOS = 3  # of a test set
TILE = (112, 112)
LEGEND = "cyan: predicted · lime: ground truth · heatmap: from dark violet, its least, to yellow"


def draw_video_rows(video, heatmaps, boxes, pred_labels) -> tuple:
    """A video's four rows of tiles, captions of the last three, and times.

    heatmaps (T, h, w), boxes: T of (n, 5), pred_labels: T class names.
    """
    rows = [[overlay(f, size=TILE) for f in video.frames],
            [overlay(f, heatmap=h, size=TILE) for f, h in zip(video.frames, enlarge(heatmaps))],
            [overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(video.frames, boxes)],
            [overlay(f, gt=b, size=TILE) for f, b in zip(video.frames, video.boxes)]]
    captions = ["heatmap", f"predicted boxes; class: {' | '.join(pred_labels)}",
                f"ground truth; class: {' | '.join(video.labels)}"]
    return rows, captions, [f"{t:.1f} s" for t in video.times]


def contact_sheet(videos) -> dict:
    """What `draw_video_rows` returns of some videos → arguments of common.io.contact_sheet."""
    all_times = [times for _, _, times in videos]
    are_equal = all(times == all_times[0] for times in all_times)  # then they are the headings
    captions = [caption for _, captions, times in videos
                for caption in ("" if are_equal else ", ".join(times), *captions)]
    return {"rows": [row for rows, _, _ in videos for row in rows], "captions": captions,
            "columns": all_times[0] if are_equal else (), "legend": LEGEND}
