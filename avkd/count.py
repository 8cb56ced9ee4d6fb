"""Parameters and multiply-adds of the variants, for one image and one audio clip (4.2, 4.5)."""
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.training import markdown_table

from .backbones.detr import detr_r50
from .backbones.resnet import resnet18
from .model import Avkd, localization_map


def cost(module, run) -> tuple[int, int]:
    """Parameters, without the statistics of batch norm, and multiply-adds of `run()`.

    Multiply-adds are those of convolutions and matrix products; a FLOP counter counts each twice.
    """
    module.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def cost_table(config) -> str:
    """The variants of a preset, beside the paper's numbers.

    ResNet-18 and DETR-R50 are those of the paper, for images of 224 × 224; DETR also for 800 × 800.
    """
    c = config
    image = torch.zeros(1, 3, c.image_size, c.image_size)
    waveform = torch.zeros(1, round(c.crop * c.sample_rate))
    small, large = torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 800, 800)
    model, resnet, detr = Avkd(c), resnet18(num_classes=None), detr_r50()
    avc = cost(model, lambda: localization_map(*model(image, waveform)))
    objects = cost(resnet, lambda: resnet.features(small))
    detr_224, detr_800 = cost(detr, lambda: detr(small)), cost(detr, lambda: detr(large))
    variants = (("AVC", [avc], "24.5 M / 7.2 G"),
                ("+ ResNet-18 = OG-AVC", [avc, objects], "+ 11.2 M / 1.8 G"),
                ("+ DETR-R50 = OG-AVC-DETR", [avc, objects, detr_224], ""),
                ("the same, DETR at 800 × 800", [avc, objects, detr_800], ""),
                ("AVC + DETR-R50 at 800 × 800", [avc, detr_800], "61.3 M / 64.3 G"))
    rows = []
    for name, parts, paper in variants:
        parameters, multiply_adds = map(sum, zip(*parts))
        rows.append([name, f"{parameters / 1e6:.3f} M", f"{multiply_adds / 1e9:.2f} G", paper])
    return markdown_table(rows, ["variant", "parameters", "multiply-adds",
                                 "the paper: parameters / FLOPs"])
