"""The Space-Time Memory Network (Li, Tian, Xu, BMVC 2021), section 3, from the encoders' features on.

symbol              here                 shape
X_v^t encoded       features_v           (B, T, 2048, h, w)   the last map of ResNet-152; 8×8 for 256×256 pixels
X_a^t encoded       features_a           (B, T, 512, m, n)    VGGish's map before flattening; 6×4 for 0.96 s
x_v^t, x_a^t        x_v, x_a             (B, T, C, h, w), (B, T, C, m, n)
alpha-hat           alpha                (B, T, h, w)         the localization map
O^t                 joint                (B, T, 2C)
"""
from typing import NamedTuple

import torch
from torch import nn

from .memory import EMPTY, Memory, MemoryLayer, spatial_softmax


class Output(NamedTuple):
    logits: torch.Tensor  # (B, T, classes), of each step
    alpha: torch.Tensor  # (B, T, h, w), sums to 1 over the positions
    scores: torch.Tensor  # (B, T, h, w), what alpha is the softmax of
    past: Memory  # for the steps that follow


def projection(channels, C, depth):
    """A stack of `depth` 1×1 convolutions, each with ReLU (section 4.2): (N, channels, h, w) → (N, C, h, w)."""
    layers = []
    for i in range(depth):
        layers += [nn.Conv2d(C if i else channels, C, 1), nn.ReLU()]
    return nn.Sequential(*layers)


class SpaceTime(nn.Module):
    """Projections, memory layer, localization (3.3) and classification (3.4). `memory_options`: those of MemoryLayer."""

    def __init__(self, channels_v=2048, channels_a=512, classes=28, C=256, depth=2, **memory_options):
        super().__init__()
        self.project_v, self.project_a = projection(channels_v, C, depth), projection(channels_a, C, depth)
        self.memory = MemoryLayer(C, **memory_options)
        self.mlp = nn.Sequential(nn.Linear(2 * C, C), nn.ReLU(), nn.Linear(C, classes))

    def forward(self, features_v, features_a, past=EMPTY) -> Output:
        """features_v (B, T, channels_v, h, w), features_a (B, T, channels_a, m, n), and what a call before has returned as
        `past` → Output. Features that are vectors are maps of one cell: features[..., None, None]."""
        x_v, x_a = (project(x.flatten(0, 1)).unflatten(0, x.shape[:2])
                    for project, x in ((self.project_v, features_v), (self.project_a, features_a)))
        with torch.autocast(x_v.device.type, enabled=False):  # dot products of C numbers under an exponential: not in bfloat16
            x_av_hat, x_a_hat, past = self.memory(x_a.float(), x_v.float(), past)
            scores = self.memory.scores(x_av_hat, x_a_hat)  # section 3.3: f once more
            joint = torch.cat((x_av_hat.sum((-2, -1)), self.memory.phi(x_a_hat)), -1)  # O of section 3.4
        return Output(self.mlp(joint), spatial_softmax(scores), scores, past)

    def step(self, feature_v, feature_a, past=EMPTY) -> Output:
        """One step of live use: feature_v (B, channels_v, h, w), feature_a (B, channels_a, m, n) → Output without the axis T."""
        *now, past = self(feature_v[:, None], feature_a[:, None], past)
        return Output(*(x[:, 0] for x in now), past)
