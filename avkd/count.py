"""Parameters and multiply-adds of the variants for one picture and one sound (end of 4.2, and 4.5)."""
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.training import markdown_table

from .backbones.detr import detr_r50
from .model import Avkd, localization_map
from .backbones.resnet import resnet18


def cost(module, run) -> tuple[int, int]:
    """Parameters with the fixed statistics of batch norm left out, and multiply-adds of `run()`: convolutions and matrix products.
    A FLOP counter counts each as two."""
    module.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def table(config) -> str:
    """The variants of a preset; ResNet-18 and DETR-R50 are those of the paper, at 224 × 224, and DETR also at 800 × 800."""
    c = config
    avc = Avkd(c)
    image, sound = torch.zeros(1, 3, c.image_size, c.image_size), torch.zeros(1, round(c.crop * c.sample_rate))
    picture, large = torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 800, 800)
    body, detr = resnet18(num_classes=None), detr_r50()
    own, objects = cost(avc, lambda: localization_map(*avc(image, sound))), cost(body, lambda: body.features(picture))
    found, at_800 = cost(detr, lambda: detr(picture)), cost(detr, lambda: detr(large))
    rows = [("AVC", [own], "24.5 M / 7.2 G"), ("+ ResNet-18 = OG-AVC", [own, objects], "+ 11.2 M / 1.8 G"),
            ("+ DETR-R50 = OG-AVC-DETR", [own, objects, found], ""), ("the same, DETR at 800 × 800", [own, objects, at_800], ""),
            ("AVC + DETR-R50 at 800 × 800", [own, at_800], "61.3 M / 64.3 G")]
    return markdown_table([[name, *(f"{sum(part[k] for part in parts) / scale:.{digits}f} {unit}" for k, scale, digits, unit in
                              ((0, 1e6, 3, "M"), (1, 1e9, 2, "G"))), paper] for name, parts, paper in rows],
                    ["variant", "parameters", "multiply-adds", "the paper: parameters / FLOPs"])
