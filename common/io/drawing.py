"""Heatmaps and boxes drawn over an image, and contact sheets of such images."""
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .files import to_numpy

PREDICTED, GT = (0, 225, 255), (170, 255, 40)  # cyan and lime
# From dark violet to pale yellow, nearly equal steps of CIELAB's ΔE, lightness from 10 to 96: equal
# differences of a heatmap look equal, in grey too.
_NODES = np.array([(30, 20, 61), (86, 33, 100), (149, 42, 123), (195, 44, 115), (230, 63, 99),
                   (251, 97, 83), (255, 136, 82), (255, 174, 93), (255, 214, 129),
                   (255, 245, 189)])
COLOURS = np.stack([np.interp(np.linspace(0, 9, 256), range(10), channel) for channel in _NODES.T],
                   -1).round().astype(np.uint8)  # (256, 3), of a heatmap from 0 to 1
SCALE_BAR = COLOURS[None, ::4].repeat(12, 0)  # (12, 64, 3)


def overlay(image, heatmap=None, boxes=(), gt=(), labels=None, size=None):
    """A heatmap, boxes and the ground truth over an image: uint8 (H, W, 3) → uint8 (H, W, 3).

    heatmap: (h, w) in [0, 1], stretched over the image. boxes: predicted, (n, 4) x0 y0 x1 y1 in
    [0, 1]; labels: a text for each. gt: boxes (m, 4) likewise, or a mask (h, w), of which the
    outline is drawn. size: (H, W) of the result, the image's if None."""
    height, width = size or image.shape[:2]
    canvas = Image.fromarray(to_numpy(image)).resize((width, height), Image.Resampling.BILINEAR)
    if heatmap is not None:
        canvas = _blend(canvas, to_numpy(heatmap))
    line = max(1, min(3, round(min(width, height) / 240)))
    gt, boxes = to_numpy(gt), to_numpy(boxes).reshape(-1, 4)
    if gt.ndim == 2 and gt.shape[1] != 4:
        _outline(canvas, gt > 0, line)
        gt = np.zeros((0, 4))
    _rectangles(canvas, gt.reshape(-1, 4), GT, 2 * line + 1)  # wider: both show where they agree
    _rectangles(canvas, boxes, PREDICTED, line)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(10, min(width, height) // 20))
    for (x, y), label in zip(boxes[:, :2].clip(0, 1) * (width, height), labels or ()):
        draw.text((x + line + 2, y + line), str(label), PREDICTED, font,
                  stroke_width=1, stroke_fill=(0, 0, 0))
    return np.array(canvas)


def _blend(canvas, heatmap):
    """The heatmap's colours over the image, with opacity 0.85 h²: nothing where it is 0."""
    if not np.isfinite(heatmap).all():
        raise FloatingPointError("the heatmap is not finite")
    heatmap = Image.fromarray(heatmap.astype(np.float32).clip(0, 1))
    heatmap = 255 * np.asarray(heatmap.resize(canvas.size, Image.Resampling.BILINEAR))  # (H, W)
    opacity = (0.85 / 255 * heatmap**2).round().astype(np.uint8)
    colours = COLOURS[heatmap.round().astype(np.uint8)]  # (H, W, 3)
    return Image.composite(Image.fromarray(colours), canvas, Image.fromarray(opacity))


def _outline(canvas, mask, line):
    """The inner rim of the mask, with a dark edge."""
    mask = Image.fromarray(mask).convert("L").resize(canvas.size, Image.Resampling.NEAREST)
    inner = mask.filter(ImageFilter.MinFilter(2 * line + 1))
    rim = Image.fromarray(np.asarray(mask) & ~np.asarray(inner))
    canvas.paste((0, 0, 0), mask=rim.filter(ImageFilter.MaxFilter(3)))
    canvas.paste(GT, mask=rim)


def _rectangles(canvas, boxes, colour, line):
    draw, last = ImageDraw.Draw(canvas), np.array(canvas.size * 2) - 1
    for x0, y0, x1, y1 in (boxes.clip(0, 1) * last).round():
        corners = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        draw.rectangle(corners, outline=(0, 0, 0), width=line + 1)  # visible on any image
        draw.rectangle(corners, outline=colour, width=line)


def contact_sheet(rows, columns=(), captions=(), legend=""):
    """Rows of images, arrays uint8 (H, W, 3) → one image, uint8 (H, W, 3).

    columns: headings above. captions: a line under each row. legend: the last line, before which
    the colours from 0 to 1 are drawn if it has to do with heatmaps."""
    font, gap, text = ImageFont.load_default(13), 8, 20
    heights = [max(map(len, row), default=0) for row in rows]
    cell = max([64, *(tile.shape[1] for row in rows for tile in row)])
    width = max(max([len(columns), *map(len, rows)]) * (cell + gap) + gap, 320)
    under = text if len(captions) else 0
    height = 2 * text + sum(h + under + gap for h in heights) + gap
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for c, heading in enumerate(columns):
        _write_line(draw, gap + c * (cell + gap), 3, heading, cell, font)
    y = text
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            page.paste(Image.fromarray(tile), (gap + c * (cell + gap), y))
        y += heights[r]
        if r < len(captions):
            _write_line(draw, gap, y + 2, captions[r], width - 2 * gap, font)
        y += under + gap
    start = gap
    if "heatmap" in legend:
        page.paste(Image.fromarray(SCALE_BAR), (gap, y + 5))
        start += 70
    _write_line(draw, start, y + 2, legend, width - gap - start, font)
    return np.array(page)


def _write_line(draw, x, y, words, room, font):
    words, end = " ".join(str(words).split())[:300], ""
    while words and font.getlength(words + end) > room:
        words, end = words[:-1], "…"
    draw.text((x, y), words + end, (20, 20, 20), font)
