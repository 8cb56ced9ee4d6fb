"""What a model sees, drawn: maps and boxes over a picture, and sheets of such pictures."""
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PREDICTED, TRUTH = (0, 225, 255), (170, 255, 40)  # cyan and lime
LEGEND = "cyan: predicted box · lime: ground truth · map: from dark violet, 0, to pale yellow, 1"
# Dark violet over red to pale yellow, ever lighter, so that it reads in grey too.
_MAP = np.array([(12, 8, 48), (84, 22, 122), (190, 48, 88), (246, 136, 36), (255, 244, 160)], np.float64)


def colour_map(heat):
    """(…) in [0, 1] → (…, 3) float64 in [0, 255]."""
    nodes = np.linspace(0, 1, len(_MAP))
    return np.stack([np.interp(heat, nodes, channel) for channel in _MAP.T], -1)


def overlay(image, heat=None, boxes=(), truth=(), labels=None, size=None):
    """What a model sees in a picture: uint8 (H, W, 3) → uint8 (H, W, 3), with `size=(H, W)` at another size.

    heat: (h, w) in [0, 1], stretched over the picture. boxes: predicted, (n, 4) x0 y0 x1 y1 in [0, 1], with n `labels` if
    any. truth: boxes (m, 4) likewise, or a mask (h, w), whose outline is drawn where it is above 0.
    """
    canvas = Image.fromarray(to_numpy(image))
    width, height = (size[1], size[0]) if size else canvas.size
    canvas = canvas.resize((width, height), Image.Resampling.BILINEAR)
    if heat is not None:
        heat = Image.fromarray(to_numpy(heat).astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        heat = np.asarray(heat)  # (H, W)
        if not np.isfinite(heat).all():
            raise ValueError("the map is not finite")
        weight = 0.35 + 0.3 * heat.clip(0, 1)[..., None]  # what is found hides more of the picture than what is not
        canvas = Image.fromarray((np.asarray(canvas) * (1 - weight) + colour_map(heat) * weight).round().astype(np.uint8))
    line = max(1, min(4, round(min(width, height) / 120)))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(10, min(width, height) // 20))
    truth, boxes = to_numpy(truth), to_numpy(boxes).reshape(-1, 4)
    if truth.ndim == 2 and truth.shape[1] != 4:
        mask = Image.fromarray(((truth > 0) * 255).astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        inner = mask.filter(ImageFilter.MinFilter(2 * line + 1))
        rim = Image.fromarray(np.asarray(mask) & ~np.asarray(inner))
        canvas.paste((0, 0, 0), mask=rim.filter(ImageFilter.MaxFilter(3)))
        canvas.paste(TRUTH, mask=rim)
        truth = ()
    # Truth is wider than prediction, so that both show where they agree.
    for colour, wide, group in ((TRUTH, 2 * line + 1, to_numpy(truth).reshape(-1, 4)), (PREDICTED, line, boxes)):
        for x0, y0, x1, y1 in (group.clip(0, 1) * (width - 1, height - 1, width - 1, height - 1)).round():
            corners = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
            draw.rectangle(corners, outline=(0, 0, 0), width=wide + 1)  # a dark edge: visible on any picture
            draw.rectangle(corners, outline=colour, width=wide)
    for (x0, y0, _, _), label in zip(boxes.clip(0, 1) * (width, height, width, height), labels or ()):
        draw.text((x0 + line + 2, y0 + line), str(label), PREDICTED, font, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.array(canvas)


def contact_sheet(rows, columns=(), captions=(), legend=LEGEND):
    """Rows of uint8 pictures (H, W, 3), None for an empty place → one picture, uint8 (H, W, 3).

    `columns` are headings above, `captions` a line under each row, the legend is at the foot.
    """
    font, gap, text = ImageFont.load_default(13), 8, 20
    sizes = [[to_numpy(tile).shape[:2] if tile is not None else (0, 0) for tile in row] for row in rows]
    heights = [max([h for h, _ in row], default=0) for row in sizes]
    cells = max([len(row) for row in sizes] + [len(columns)])
    cell = max([w for row in sizes for _, w in row] + [64])
    width = max(cells * (cell + gap) + gap, 320)
    under = text if len(captions) else 0
    page = Image.new("RGB", (width, 2 * text + sum(h + under + gap for h in heights) + gap), "white")
    draw = ImageDraw.Draw(page)

    def write(x, y, words, room):  # on one line, cut where the room ends
        words, end = " ".join(str(words).split())[:300], ""
        while words and font.getlength(words + end) > room:
            words, end = words[:-1], "…"
        draw.text((x, y), words + end, (20, 20, 20), font)

    for c, heading in enumerate(columns):
        write(gap + c * (cell + gap), 3, heading, cell)
    y = text
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            x = gap + c * (cell + gap)
            if tile is None:
                draw.rectangle([x, y, x + cell - 1, y + heights[r] - 1], fill=(235, 235, 235))
            else:
                page.paste(Image.fromarray(to_numpy(tile)), (x, y))
        y += heights[r]
        if r < len(captions):
            write(gap, y + 2, captions[r], width - 2 * gap)
        y += under + gap
    write(gap, y + 2, legend, width - 2 * gap)
    return np.array(page)


def to_numpy(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
