"""Faster R-CNN (Ren et al., NeurIPS 2015) on a feature pyramid (Lin et al., CVPR 2017), to predict.

Published key names. stmnet 3.3 scores its proposals by the attention map; 4.2 says which network:
ResNet-50, trained on COCO.

B images; inputs (B, 3, H, W) are the images resized, normalised and padded; L levels of the
pyramid, of strides 4, 8, ….
"""
import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published, read_state

from .resnet import FrozenBatchNorm, resnet50
from .rois import RATIOS, anchors, at_least, batched_nms, clip, decode, pyramid_levels, roi_align

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BINS = 7


class Fpn(nn.Module):
    """Maps (B, c, h, w) of a network's stages, first to last → (B, width, h, w) each, and the last
    one's every second position."""

    def __init__(self, channels, width):
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, stages):
        maps, x = [], None
        layers = zip(stages, self.inner_blocks, self.layer_blocks, strict=True)
        for stage, inner, layer in reversed(list(layers)):
            lateral = inner(stage)
            if x is not None:
                lateral = lateral + F.interpolate(x, size=lateral.shape[2:], mode="nearest")
            x = lateral
            maps.insert(0, layer(x))
        return [*maps, maps[-1][:, :, ::2, ::2]]


class RpnHead(nn.Module):
    """(B, width, h, w) → objectness (B, h · w · A), deltas (B, h · w · A, 4) of A anchors at each
    position, in the order of `anchors`."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.cls_logits = nn.Conv2d(width, len(RATIOS), 1)
        self.bbox_pred = nn.Conv2d(width, 4 * len(RATIOS), 1)

    def forward(self, x):
        x = F.relu(self.conv(x))
        deltas = self.bbox_pred(x).permute(0, 2, 3, 1).unflatten(3, (-1, 4))  # (B, h, w, A, 4)
        logits = self.cls_logits(x).permute(0, 2, 3, 1)  # (B, h, w, A)
        return logits.flatten(1).float(), deltas.flatten(1, 3).float()


class BoxHead(nn.Module):
    """Features of boxes (n, width, 7, 7) → (n, hidden)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(width * BINS**2, hidden), nn.Linear(hidden, hidden)

    def forward(self, x):
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class BoxPredictor(nn.Module):
    """(n, hidden) → logits (n, classes), the first of the background, deltas (n, classes, 4)."""

    def __init__(self, hidden, classes):
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(hidden, classes), nn.Linear(hidden, 4 * classes)

    def forward(self, x):
        return self.cls_score(x).float(), self.bbox_pred(x).unflatten(1, (-1, 4)).float()


class FasterRcnn(nn.Module):
    """A ResNet without classifier, a pyramid of `width` channels on its stages, and two heads.

    num_classes: with background, class 0. side, longest: images are resized to a shorter side of
    `side`, unless the longer one would be over `longest`. anchor: side of the anchors of the
    first level, doubled at each further one. top: how many proposals are taken of each level, and
    left after their suppression. threshold: the least score of a detection; detections: how many
    at most."""

    def __init__(self, body, width=256, hidden=1024, num_classes=91, side=800, longest=1333,
                 anchor=32, top=1000, threshold=0.05, detections=100):
        super().__init__()
        self.side, self.longest, self.anchor, self.top = side, longest, anchor, top
        self.threshold, self.detections = threshold, detections
        channels = [body.channels >> (body.stages - 1 - stage) for stage in range(body.stages)]
        self.backbone = nn.ModuleDict({"body": body, "fpn": Fpn(channels, width)})
        self.rpn = nn.ModuleDict({"head": RpnHead(width)})
        self.roi_heads = nn.ModuleDict({"box_head": BoxHead(width, hidden),
                                        "box_predictor": BoxPredictor(hidden, num_classes)})

    def inputs(self, images):
        """Images (3, h, w) in 0..1 → inputs (B, 3, H, W), and the (h, w) of each image in them.

        H and W are multiples of 32; an image is at the top left, zeros, the mean colour, around it.
        Raises ValueError for another shape or type, and without an image."""
        ready = []
        for image in images:
            is_image = image.dim() == 3 and len(image) == 3 and 0 not in image.shape
            if not (is_image and image.is_floating_point()):
                raise ValueError(f"expected images (3, h, w) of floats, got {tuple(image.shape)}, "
                                 f"{image.dtype}")
            scale = min(self.side / min(image.shape[1:]), self.longest / max(image.shape[1:]))
            size = [max(int(length * scale), 1) for length in image.shape[1:]]
            mean, std = (image.new_tensor(x)[:, None, None] for x in (MEAN, STD))
            image = (image - mean) / std
            ready.append(F.interpolate(image[None], size=size, mode="bilinear")[0])
        if not ready:
            raise ValueError("expected images, got none")
        sizes = [tuple(image.shape[1:]) for image in ready]
        height, width = (-(-max(lengths) // 32) * 32 for lengths in zip(*sizes))
        padded = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in ready]
        return torch.stack(padded), sizes

    def pyramid(self, inputs):
        """(B, 3, H, W) → L + 1 maps (B, width, H/4, W/4), …; the last one is for proposals only."""
        return self.backbone["fpn"](self.backbone["body"].maps(inputs)[1:])  # without the stem's

    def propose(self, maps, shape, sizes):
        """Maps of the pyramid, (H, W) of the inputs, (h, w) of each image → each image's proposals.

        Those are boxes (n, 4) in pixels of the inputs and objectness (n,) in 0..1, highest first.
        """
        boxes, logits, levels = [], [], []
        for level, x in enumerate(maps):
            objectness, deltas = self.rpn["head"](x)
            all_anchors = anchors(shape, x.shape[2:], self.anchor * 2**level, x.device)
            best, rows = objectness.topk(min(self.top, len(all_anchors)), 1)  # (B, k)
            deltas = deltas.gather(1, rows[..., None].expand(-1, -1, 4))  # (B, k, 4)
            boxes.append(decode(deltas, all_anchors[rows]))
            logits.append(best)
            levels.append(torch.full_like(rows[0], level))
        levels, results = torch.cat(levels), []
        for box, score, size in zip(torch.cat(boxes, 1), torch.cat(logits, 1).sigmoid(), sizes):
            box = clip(box, size)
            is_large = at_least(box, 1e-3)
            box, score = box[is_large], score[is_large]
            best = batched_nms(box, score, levels[is_large], 0.7, self.top)
            results.append((box[best], score[best]))
        return results

    def rois(self, maps, boxes):
        """Maps, each image's boxes (n, 4) in pixels of the inputs → (sum of n, width, 7, 7)."""
        maps, strides = maps[:-1], [4 * 2**i for i in range(len(maps) - 1)]
        image = torch.cat([torch.full((len(box),), i, device=box.device)
                           for i, box in enumerate(boxes)])
        boxes = torch.cat(boxes)
        levels = pyramid_levels(boxes, len(maps))
        return roi_align(maps, strides, boxes, image, levels, BINS)

    def classify(self, maps, boxes, sizes):
        """Maps, each image's proposals (n, 4) and (h, w) → each image's boxes (k, 4) in pixels of
        the inputs, scores (k,) and labels (k,), the highest score first."""
        features = self.roi_heads["box_head"](self.rois(maps, boxes))
        logits, deltas = self.roi_heads["box_predictor"](features)
        counts, results = [len(box) for box in boxes], []
        parts = zip(boxes, logits.softmax(1).split(counts), deltas.split(counts), sizes)
        for box, score, delta, size in parts:
            box = clip(decode(delta, box[:, None], (10.0, 10.0, 5.0, 5.0)), size)  # (n, classes, 4)
            is_likely = (score > self.threshold) & at_least(box, 1e-2)
            is_likely[:, 0] = False  # the background
            box, score, label = box[is_likely], score[is_likely], is_likely.nonzero()[:, 1]
            best = batched_nms(box, score, label, 0.5, self.detections)
            results.append((box[best], score[best], label[best]))
        return results

    @torch.no_grad()
    def proposals(self, images, top=None):
        """Images (3, h, w) in 0..1, a list or (B, 3, h, w) → for each {"boxes": (n, 4) in its
        pixels, "scores": (n,)}, objects of any class, the most likely first, `top` at most."""
        inputs, sizes = self.inputs(images)
        results = self.propose(self.pyramid(inputs), inputs.shape[2:], sizes)
        return [{"boxes": to_original(boxes[:top], size, image), "scores": scores[:top]}
                for (boxes, scores), size, image in zip(results, sizes, images)]

    @torch.no_grad()
    def forward(self, images):
        """Classified objects, as `proposals` with "labels" (n,) int64, 1 … num_classes - 1."""
        inputs, sizes = self.inputs(images)
        maps = self.pyramid(inputs)
        proposals = [boxes for boxes, _ in self.propose(maps, inputs.shape[2:], sizes)]
        results = self.classify(maps, proposals, sizes)
        return [{"boxes": to_original(boxes, size, image), "scores": scores, "labels": labels}
                for (boxes, scores, labels), size, image in zip(results, sizes, images)]


def find_boxes(detector, frames, most: int) -> list:
    """The proposals in T images (H, W, 3) uint8, one after the other: T of (n, 4) in [0, 1]."""
    found, device = [], next(detector.parameters()).device
    for frame in frames:
        image = torch.from_numpy(frame).to(device).permute(2, 0, 1) / 255  # (3, H, W)
        boxes = detector.proposals([image], most)[0]["boxes"].cpu()
        found.append(boxes / torch.tensor([frame.shape[1], frame.shape[0]] * 2))
    return found


def to_original(boxes, size, image):
    """Boxes (n, 4) in an image resized to (h, w) → in pixels of the original image (3, ·, ·)."""
    height, width = (original / resized for original, resized in zip(image.shape[1:], size))
    return boxes * boxes.new_tensor([width, height, width, height])


def faster_rcnn_r50_fpn(num_classes=91, **options):
    """fasterrcnn_resnet50_fpn_coco-258fb6c6.pth (torchvision), 41.8 M parameters.

    options: those of FasterRcnn. Its frozen batch norms add nothing to the variances."""
    body = resnet50(num_classes=None, norm=partial(FrozenBatchNorm, eps=0.0))
    return FasterRcnn(body, num_classes=num_classes, **options)


def load(model, path):
    """Load the file at `path` into a FasterRcnn, strictly, and return it. Raises InputError.

    Names are those of the published file, or those that torchvision gives the same tensors today.
    """
    is_new = "rpn.head.conv.0.0.weight" in read_state(path)
    load_published(TorchvisionFasterRcnn(model) if is_new else model, path)
    return model


class TorchvisionFasterRcnn:
    """A FasterRcnn whose state_dict has torchvision's names of today: some convolutions are deeper
    in containers."""

    def __init__(self, model):
        self.model, self.names = model, {}
        for name in model.state_dict():
            new = re.sub(r"(_blocks\.\d+)\.", r"\1.0.", name)
            self.names[new.replace("head.conv.", "head.conv.0.0.")] = name

    def state_dict(self):
        state = self.model.state_dict()
        return {new: state[name] for new, name in self.names.items()}

    def load_state_dict(self, state):
        self.model.load_state_dict({name: state[new] for new, name in self.names.items()})
