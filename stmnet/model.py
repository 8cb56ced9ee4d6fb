"""The Space-Time Memory Network of section 3: encoders, memory, localization map, classifier.

Paper: Li, Tian, Xu, "Space-Time Memory Network for Sounding Object Localization in Videos", BMVC
2021, https://arxiv.org/abs/2111.05526. Authors' code, MIT, commit 9cac71a:
https://github.com/lester0866/Space-Time-Memory-Network-for-Sounding-Object-Localization-in-Videos

symbol         here                shape
Xᵥᵗ            frames              (B, T, 3, S, S)     video frames
Xₐᵗ            segments            (B, T, samples)     at 16 kHz; the encoder makes the log-mel
               features_v          (B, T, Dᵥ, h, w)    last map of ResNet-152: 2048 × 8 × 8
               features_a          (B, T, Dₐ, m, n)    last map of VGGish: 512 × 6 × 4 for 0.96 s
xᵥᵗ, xₐᵗ       x_v, x_a            (B, T, C, h, w), (B, T, C, m, n)
x̂ₐᵥᵗ, x̂ₐᵗ      x_av_hat, x_a_hat   as xᵥ, xₐ           outputs of the memory layer
α̂ₐᵥᵗ           alpha               (B, T, h, w)        the localization map
Oᵗ             joint               (B, T, 2C)          what is classified

B clips, T steps, S × S pixels, C channels of the joint space, h × w and m × n positions of a map.

>>> network = SpaceTime(channels_v=12, channels_a=10, classes=3, C=8)
>>> output = network(torch.rand(2, 4, 12, 8, 8), torch.rand(2, 4, 10, 6, 4))
>>> output.logits.shape, output.alpha.shape
(torch.Size([2, 4, 3]), torch.Size([2, 4, 8, 8]))
>>> output.alpha.detach()[0].sum((-2, -1)).round(decimals=4)  # over the positions of each step
tensor([1., 1., 1., 1.])
"""
from typing import NamedTuple

import torch
from torch import nn

from .backbones.encoders import AudioEncoder, VisualEncoder
from .memory import EMPTY, Memory, MemoryLayer, spatial_softmax


class Output(NamedTuple):
    logits: torch.Tensor  # (B, T, classes)
    alpha: torch.Tensor  # (B, T, h, w)
    scores: torch.Tensor  # (B, T, h, w), the exponents of alpha
    memory: Memory  # for the steps that follow


def each_step(network, x):
    """Apply the network to each step of each clip: (B, T, …) → (B, T, …)."""
    return network(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def projection(channels, C, depth):
    """`depth` 1×1 convolutions with ReLU (4.2): (N, channels, h, w) → (N, C, h, w)."""
    layers = []
    for i in range(depth):
        layers += [nn.Conv2d(C if i else channels, C, 1), nn.ReLU()]
    return nn.Sequential(*layers)


class SpaceTime(nn.Module):
    """From encoder features to map and logits. memory_options: see MemoryLayer."""

    def __init__(self, channels_v=2048, channels_a=512, classes=28, C=256, depth=2,
                 **memory_options):
        super().__init__()
        self.project_v = projection(channels_v, C, depth)
        self.project_a = projection(channels_a, C, depth)
        self.memory = MemoryLayer(C, **memory_options)
        self.mlp = nn.Sequential(nn.Linear(2 * C, C), nn.ReLU(), nn.Linear(C, classes))

    def forward(self, features_v, features_a, past=EMPTY) -> Output:
        """The localization map (3.3) and the logits of the event categories (3.4).

            α̂ₐᵥᵗ = f(x̂ₐᵗ, x̂ₐᵥᵗ),   f of Eq. (1)
            Oᵗ = [Σᵢⱼ x̂ₐᵥᵗ(i,j) ; φ(x̂ₐᵗ)],   logits = MLP(Oᵗ)

        φ makes the audio map the "feature vector" of 3.4. features_v (B, T, Dᵥ, h, w), features_a
        (B, T, Dₐ, m, n); past: the memory that the call for the steps before returned.
        """
        x_v = each_step(self.project_v, features_v)  # (B, T, C, h, w)
        x_a = each_step(self.project_a, features_a)  # (B, T, C, m, n)
        with torch.autocast(x_v.device.type, enabled=False):  # exponentials need float32
            x_av_hat, x_a_hat, memory = self.memory(x_a.float(), x_v.float(), past)
            scores = self.memory.scores(x_av_hat, x_a_hat)  # (B, T, h, w)
            alpha = spatial_softmax(scores)
            joint = torch.cat((x_av_hat.sum((-2, -1)), self.memory.phi(x_a_hat)), -1)  # (B, T, 2C)
        return Output(self.mlp(joint), alpha, scores, memory)


class Stmnet(nn.Module):
    """The whole network. Frozen encoders stay in evaluation mode and get no gradient."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.visual_encoder, self.audio_encoder = VisualEncoder(config), AudioEncoder(config)
        self.space_time = SpaceTime(
            self.visual_encoder.channels, self.audio_encoder.channels, classes, config.C,
            config.depth, K=config.K, heads=config.heads, ablation=config.memory, phi=config.phi,
            av_memory=config.av_memory, similarity=config.similarity, temperature=config.tau)
        is_frozen = config.encoders == "frozen"
        self.frozen = (self.visual_encoder, self.audio_encoder) if is_frozen else ()
        for encoder in self.frozen:
            encoder.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        for encoder in self.frozen:  # batch norms keep the statistics that they came with
            encoder.eval()
        return self

    def forward(self, frames, segments) -> Output:
        """frames (B, T, 3, S, S), segments (B, T, samples) → Output."""
        return self.space_time(each_step(self.visual_encoder, frames),
                               each_step(self.audio_encoder, segments))
