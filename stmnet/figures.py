"""The contact sheet of an evaluation: frames in columns; image, heatmap, boxes and gt in rows."""
from common import io

from .scoring import enlarge

NUM_VIDEOS = 3  # of a test set
TILE = (112, 112)
LEGEND = "cyan: predicted · lime: ground truth · heatmap: from dark violet, its least, to yellow"


def draw_video_rows(video, heatmaps, boxes, pred_labels) -> tuple:
    """A video's four rows of tiles, captions of the last three, and times.

    heatmaps (T, h, w), boxes: T of (n, 5), pred_labels: T class names.
    """
    frames, heatmaps = video.frames, enlarge(heatmaps)
    rows = [[io.overlay(f, size=TILE) for f in frames],
            [io.overlay(f, heatmap=h, size=TILE) for f, h in zip(frames, heatmaps)],
            [io.overlay(f, boxes=b[:, :4], size=TILE) for f, b in zip(frames, boxes)],
            [io.overlay(f, gt=b, size=TILE) for f, b in zip(frames, video.boxes)]]
    captions = ["heatmap", f"predicted boxes; class: {' | '.join(pred_labels)}",
                f"ground truth; class: {' | '.join(video.labels)}"]
    return rows, captions, [f"{t:.1f} s" for t in video.times]


def layout(videos) -> dict:
    """What `draw_video_rows` returned for some videos → rows, captions and headings of a sheet."""
    all_times = [times for _, _, times in videos]
    are_equal = all(times == all_times[0] for times in all_times)  # then they are the headings
    return {"rows": [row for rows, _, _ in videos for row in rows],
            "captions": [caption for _, captions, times in videos
                         for caption in ("" if are_equal else ", ".join(times), *captions)],
            "columns": all_times[0] if are_equal else ()}


def contact_sheet(videos):
    """What `draw_video_rows` returned for some videos → one image, uint8 (H, W, 3)."""
    return io.contact_sheet(**layout(videos), legend=LEGEND)
