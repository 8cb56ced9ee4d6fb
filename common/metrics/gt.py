"""Ground truth: boxes and annotators' masks → gt maps (N, H, W) in [0, 1]."""
import torch

from .arrays import portable


@portable
def boxes_to_map(boxes, size, consensus=None):
    """Rasterize boxes: (…, K, 4), x0, y0, x1, y1 in pixels → (…, H, W) float32 in [0, 1].

        gt[y, x] = 1 where ⌊y0⌋ ≤ y < ⌊y1⌋ and ⌊x0⌋ ≤ x < ⌊x1⌋ for any box

    All published evaluators share this rule: edges are truncated and used as slices [y0:y1, x0:x1].
    So x1 <= x0 marks nothing (zeros are padding), and a negative edge counts from the far side.
    VGG-SS boxes are clipped to [0, 1], then multiplied by 224. Flickr-SoundNet's are
    int(224 · v / 256), clipped at 0 by TURN only. size: H = W, or (H, W). consensus: c of
    `consensus_map`, which then replaces the union."""
    boxes = torch.as_tensor(boxes)
    if boxes.dim() < 2 or boxes.shape[-1] != 4 or not boxes.isfinite().all():
        raise ValueError(f"boxes: expected finite (…, K, 4), got {tuple(boxes.shape)}")
    height, width = (size, size) if isinstance(size, int) else size
    masks = []
    for first, last, length in ((1, 3, height), (0, 2, width)):
        edges = boxes[..., [first, last]].double().trunc()  # (…, K, 2)
        edges = torch.where(edges < 0, edges + length, edges).clamp(0, length)
        pixel = torch.arange(length, device=boxes.device)
        masks.append((pixel >= edges[..., :1]) & (pixel < edges[..., 1:]))  # (…, K, length)
    masks = masks[0][..., :, None] & masks[1][..., None, :]  # (…, K, H, W)
    return masks.any(-3).float() if consensus is None else consensus_map(masks, consensus)


@portable
def consensus_map(masks, c):
    """min( Σⱼ mⱼ / c, 1 ) of n annotators, TURN Eq. (14): (…, n, H, W) → (…, H, W) float32.

    Flickr-SoundNet has c = 2."""
    if c <= 0 or masks.dim() < 3:
        raise ValueError(f"expected masks (…, n, H, W) and c > 0, got {tuple(masks.shape)}, {c}")
    return (masks.float().sum(-3) / c).clamp(max=1)
