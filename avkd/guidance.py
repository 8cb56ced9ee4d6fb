"""Object-guided inference (section 3.5): the AVC model's map, combined with maps of objects.

The object-based map is the mean over the channels of a pre-trained ResNet-18's last features. The
visual teacher, DETR, gives another: the mean of what its confident queries attend to.

| paper | here | shape |
| --- | --- | --- |
| output of the AVC inference model | `avc`, model.localization_map | (n, h, w) |
| object-based localization map | `objects` | (n, h, w) |
| confidence score of DETR's Q queries | `confidence` | (n, Q) |
| latest feature maps of DETR: its last decoder layer's | `attention` | (n, Q, h, w) |
| their mean over confident queries | `detections` | (n, h, w) |
| OG-AVC, OG-AVC-DETR | `og_avc`, `og_avc_detr` | (n, h, w) |

evaluate.py enlarges the maps bilinearly. Here they are brought to one range before they are
added, on which the paper is silent: ν(x) = (x − min x) / (max x − min x), `metrics.normalise`.

>>> avc, objects = torch.tensor([[[0.0, 1, 2]]]), torch.tensor([[[3.0, 1, 1]]])
>>> og_avc(avc, objects)
tensor([[[0.4000, 0.3000, 0.6000]]])
>>> attention = torch.tensor([[[[0.0, 8, 8]], [[5.0, 0, 0]]]])
>>> detections = confident_mean(torch.tensor([[0.9, 0.2]]), attention)
>>> detections
(tensor([[[0., 8., 8.]]]), tensor([True]))
>>> og_avc_detr(avc, objects, *detections)
tensor([[[0.3333, 0.5000, 0.6667]]])
"""
import torch
from torch import nn

from common import metrics

from .backbones.detr import square_view
from .backbones.views import normalise as normalise_image, test_view

CONFIDENCE = 0.3  # the least that a query needs to show an object
RESNET_SIZE = 224  # side of the image that ResNet-18 sees, whatever the AVC model sees


def og_avc(avc, objects, weights=(0.6, 0.4)):
    """OG-AVC (3.5), of maps (n, h, w):  0.6 ν(avc) + 0.4 ν(objects).

    Here and below, other weights are divided by their sum."""
    a, o = (w / sum(weights) for w in weights)
    return a * metrics.normalise(avc) + o * metrics.normalise(objects)


def og_avc_detr(avc, objects, detections, has_detection, weights=(1, 1, 1)):
    """OG-AVC-DETR (3.5), of maps (n, h, w) and has_detection (n,) bool:

        (ν(avc) + ν(objects) + ν(detections)) / 3,  or (ν(avc) + ν(objects)) / 2 without detection
    """
    a, o, d = weights
    d = d * has_detection[:, None, None]  # (n, 1, 1)
    maps = zip((a, o, d), (avc, objects, detections))
    return sum(w * metrics.normalise(x) for w, x in maps) / (a + o + d)


def confident_mean(confidence, attention):
    """The mean of the maps of confident queries (3.5): (n, Q), (n, Q, h, w) → (n, h, w), (n,) bool.

        detections = 1/|C| Σ over q ∈ C of attention_q,  C = {q : confidence_q ≥ 0.3}

    It is zero in images without a confident query, for which the second result is False."""
    is_confident = confidence >= CONFIDENCE  # (n, Q)
    count = is_confident.sum(1)
    total = torch.einsum("nq,nqhw->nhw", is_confident.to(attention.dtype), attention)
    return total / count.clamp(min=1)[:, None, None], count > 0


def image_batch(images, size, device):
    """n images (H, W, 3) uint8 → (n, 3, size, size) in [0, 1]."""
    return torch.stack([test_view(image, size) for image in images]).to(device)


def detr_confidence(output):
    """(n, Q), of DETR's output: the largest probability of a class, of which the last is none."""
    return output["pred_logits"].softmax(-1)[..., :-1].amax(-1)


class Guide(nn.Module):
    """Published networks that see objects: a ResNet and, if it is there, a DETR (3.5).

        objects = 1/C Σ over c of f_c,  f (n, C, h, w) the last features of the ResNet

    n images (H, W, 3) uint8 → objects (n, h, w), and `confident_mean` of DETR's queries or None."""

    def __init__(self, resnet, detr=None, detr_size=800):
        super().__init__()
        self.resnet, self.detr, self.detr_size = resnet, detr, detr_size

    def forward(self, images):
        device = next(self.parameters()).device
        x = normalise_image(image_batch(images, RESNET_SIZE, device))
        objects = self.resnet.features(x).mean(1)  # (n, h, w)
        if self.detr is None:
            return objects, None
        x = torch.stack([square_view(image, self.detr_size) for image in images]).to(device)
        output = self.detr(normalise_image(x))
        return objects, confident_mean(detr_confidence(output), output["attention"])


class SmallGuide(nn.Module):
    """The same maps from the small classifier and the small detector, for scenes. The classifier
    sees the image at twice its side, so that its map has twice as many positions a side."""

    def __init__(self, classifier, detector):
        super().__init__()
        self.classifier, self.detector = classifier, detector

    def forward(self, images):
        size, device = self.detector.config.image_size, next(self.parameters()).device
        objects = self.classifier.features(image_batch(images, 2 * size, device)).mean(1)
        detections = self.detector.detect(image_batch(images, size, device))
        return objects, confident_mean(*detections)
