"""Faster R-CNN (Ren et al., NeurIPS 2015) on a feature pyramid (Lin et al., CVPR 2017), with the published key names; to look
for objects, not to train. stmnet 3.3 scores its proposals by the attention map, 4.2 says which one: ResNet-50, COCO.

B pictures; inputs (B, 3, H, W) are the pictures resized, normalised and padded; L levels of the pyramid, of strides 4, 8, ….
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
    """Maps (B, c, h, w) of a network's stages, first to last → (B, width, h, w) each, and the last one's every second place."""

    def __init__(self, channels, width):
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, stages):
        maps, x = [], None
        for stage, inner, layer in reversed(list(zip(stages, self.inner_blocks, self.layer_blocks, strict=True))):
            lateral = inner(stage)
            x = lateral if x is None else lateral + F.interpolate(x, size=lateral.shape[2:], mode="nearest")
            maps.insert(0, layer(x))
        return [*maps, maps[-1][:, :, ::2, ::2]]


class RpnHead(nn.Module):
    """(B, width, h, w) → objectness (B, h · w · A) and deltas (B, h · w · A, 4) of A anchors at each place, in the order of `anchors`."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.cls_logits = nn.Conv2d(width, len(RATIOS), 1)
        self.bbox_pred = nn.Conv2d(width, 4 * len(RATIOS), 1)

    def forward(self, x):
        x = F.relu(self.conv(x))
        deltas = self.bbox_pred(x).permute(0, 2, 3, 1).unflatten(3, (-1, 4))  # (B, h, w, A, 4)
        return self.cls_logits(x).permute(0, 2, 3, 1).flatten(1).float(), deltas.flatten(1, 3).float()


class BoxHead(nn.Module):
    """Features of boxes (n, width, 7, 7) → (n, hidden)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(width * BINS**2, hidden), nn.Linear(hidden, hidden)

    def forward(self, x):
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class BoxPredictor(nn.Module):
    """(n, hidden) → logits (n, classes), of which the first is the background, and deltas (n, classes, 4), one box for each."""

    def __init__(self, hidden, classes):
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(hidden, classes), nn.Linear(hidden, 4 * classes)

    def forward(self, x):
        return self.cls_score(x).float(), self.bbox_pred(x).unflatten(1, (-1, 4)).float()


class FasterRcnn(nn.Module):
    """A ResNet without classifier, a pyramid of `width` channels on its stages, and two heads.

    num_classes: with the background, class 0. side and longest: pictures are resized to a shorter side of `side`, unless the longer one
    would be over `longest`. anchor: side of the anchors of the first level, doubled at each further one. top: how many proposals
    are taken of each level, and left after their suppression. threshold: the least score of a detection; detections: how many at most.
    """

    def __init__(self, body, width=256, hidden=1024, num_classes=91, side=800, longest=1333, anchor=32, top=1000,
                 threshold=0.05, detections=100):
        super().__init__()
        self.side, self.longest, self.anchor, self.top, self.threshold, self.detections = side, longest, anchor, top, threshold, detections
        channels = [body.channels >> (body.stages - 1 - stage) for stage in range(body.stages)]
        self.backbone = nn.ModuleDict({"body": body, "fpn": Fpn(channels, width)})
        self.rpn = nn.ModuleDict({"head": RpnHead(width)})
        self.roi_heads = nn.ModuleDict({"box_head": BoxHead(width, hidden), "box_predictor": BoxPredictor(hidden, num_classes)})

    def inputs(self, images):
        """Pictures (3, h, w) in 0..1 → inputs (B, 3, H, W), H and W multiples of 32, and the (h, w) of each picture within, at
        the top left; zeros, the mean colour, are around it. ValueError for another shape or type, and for no picture."""
        ready = []
        for image in images:
            if image.dim() != 3 or len(image) != 3 or 0 in image.shape or not image.is_floating_point():
                raise ValueError(f"expected pictures (3, h, w) of floats, got {tuple(image.shape)}, {image.dtype}")
            scale = min(self.side / min(image.shape[1:]), self.longest / max(image.shape[1:]))
            size = [max(int(length * scale), 1) for length in image.shape[1:]]
            image = (image - image.new_tensor(MEAN)[:, None, None]) / image.new_tensor(STD)[:, None, None]
            ready.append(F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0])
        if not ready:
            raise ValueError("expected pictures, got none")
        sizes = [tuple(image.shape[1:]) for image in ready]
        height, width = (-(-max(lengths) // 32) * 32 for lengths in zip(*sizes))
        return torch.stack([F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in ready]), sizes

    def pyramid(self, inputs):
        """(B, 3, H, W) → L + 1 maps (B, width, H/4, W/4), …; the last one is for proposals only."""
        return self.backbone["fpn"](self.backbone["body"].maps(inputs)[1:])  # without the stem's

    def propose(self, maps, shape, sizes):
        """Maps of the pyramid, (H, W) of the inputs, (h, w) of each picture → each picture's proposals (n, 4) in pixels of the
        inputs, and their objectness (n,) in 0..1, the highest first."""
        boxes, logits, levels = [], [], []
        for level, x in enumerate(maps):
            objectness, deltas = self.rpn["head"](x)
            places = anchors(shape, x.shape[2:], self.anchor * 2**level, x.device)
            best, where = objectness.topk(min(self.top, len(places)), 1)  # (B, k)
            boxes.append(decode(deltas.gather(1, where[..., None].expand(-1, -1, 4)), places[where]))
            logits.append(best)
            levels.append(torch.full_like(where[0], level))
        levels, found = torch.cat(levels), []
        for box, score, size in zip(torch.cat(boxes, 1), torch.cat(logits, 1).sigmoid(), sizes):
            box = clip(box, size)
            large = at_least(box, 1e-3)
            box, score = box[large], score[large]
            kept = batched_nms(box, score, levels[large], 0.7, self.top)
            found.append((box[kept], score[kept]))
        return found

    def rois(self, maps, boxes):
        """Maps of the pyramid and each picture's boxes (n, 4) in pixels of the inputs → features (sum of n, width, 7, 7)."""
        maps = maps[:-1]
        picture = torch.cat([torch.full((len(box),), i, device=box.device) for i, box in enumerate(boxes)])
        boxes = torch.cat(boxes)
        return roi_align(maps, [4 * 2**i for i in range(len(maps))], boxes, picture, pyramid_levels(boxes, len(maps)), BINS)

    def classify(self, maps, boxes, sizes):
        """Maps, each picture's proposals (n, 4) and its (h, w) → each picture's boxes (k, 4) in pixels of the inputs, scores (k,)
        and labels (k,), the highest score first."""
        logits, deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](self.rois(maps, boxes)))
        counts, found = [len(box) for box in boxes], []
        for box, score, delta, size in zip(boxes, logits.softmax(1).split(counts), deltas.split(counts), sizes):
            box = clip(decode(delta, box[:, None], (10.0, 10.0, 5.0, 5.0)), size)  # (n, classes, 4)
            likely = (score > self.threshold) & at_least(box, 1e-2)
            likely[:, 0] = False  # the background
            box, score, label = box[likely], score[likely], likely.nonzero()[:, 1]
            kept = batched_nms(box, score, label, 0.5, self.detections)
            found.append((box[kept], score[kept], label[kept]))
        return found

    @torch.no_grad()
    def proposals(self, images, top=None):
        """Pictures (3, h, w) in 0..1, a list or (B, 3, h, w) → for each {"boxes": (n, 4) in its own pixels, "scores": (n,)}, what
        looks like an object of any kind, the most likely first, `top` at most. ValueError: see `inputs`."""
        inputs, sizes = self.inputs(images)
        found = self.propose(self.pyramid(inputs), inputs.shape[2:], sizes)
        return [{"boxes": restored(boxes[:top], size, image), "scores": scores[:top]}
                for (boxes, scores), size, image in zip(found, sizes, images)]

    @torch.no_grad()
    def forward(self, images):
        """The same of objects of known classes, with "labels" (n,) int64, 1 … num_classes - 1; n is `detections` at most."""
        inputs, sizes = self.inputs(images)
        maps = self.pyramid(inputs)
        found = self.classify(maps, [boxes for boxes, _ in self.propose(maps, inputs.shape[2:], sizes)], sizes)
        return [{"boxes": restored(boxes, size, image), "scores": scores, "labels": labels}
                for (boxes, scores, labels), size, image in zip(found, sizes, images)]


def restored(boxes, size, image):
    """Boxes (n, 4) in a picture resized to (h, w) → in pixels of the picture (3, ·, ·) that it was."""
    height, width = (own / resized for own, resized in zip(image.shape[1:], size))
    return boxes * boxes.new_tensor([width, height, width, height])


def faster_rcnn_r50_fpn(num_classes=91, **options):
    """fasterrcnn_resnet50_fpn_coco-258fb6c6.pth (torchvision), 41.8 M parameters. options: those of FasterRcnn.

    Its frozen batch norms add nothing to the variances: with the usual 1e-5 channels of tiny variance would be other ones.
    """
    body = resnet50(num_classes=None, norm=partial(FrozenBatchNorm, eps=0.0))
    return FasterRcnn(body, num_classes=num_classes, **options)


def load(model, path):
    """The weights in the file at `path` into a FasterRcnn, strictly; returns it. Raises InputError.

    Names are those of the published file, or the ones that torchvision gives the same tensors today.
    """
    today = "rpn.head.conv.0.0.weight" in read_state(path)
    load_published(TorchvisionFasterRcnn(model) if today else model, path)
    return model


class TorchvisionFasterRcnn:
    """A FasterRcnn whose state_dict has torchvision's names of today: some convolutions are deeper in containers."""

    def __init__(self, model):
        self.model = model
        self.names = {re.sub(r"(_blocks\.\d+)\.", r"\1.0.", n).replace("head.conv.", "head.conv.0.0."): n for n in model.state_dict()}

    def state_dict(self):
        own = self.model.state_dict()
        return {today: own[name] for today, name in self.names.items()}

    def load_state_dict(self, state):
        self.model.load_state_dict({name: state[today] for today, name in self.names.items()})
