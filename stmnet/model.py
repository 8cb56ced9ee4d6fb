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
import torch.nn.functional as F
from torch import nn

from .backbones.encoders import AudioEncoder, VisualEncoder
from .memory import EMPTY, Memory, MemoryLayer, phi, spatial_scores, spatial_softmax


class Output(NamedTuple):
    logits: torch.Tensor  # (B, T, classes)
    alpha: torch.Tensor  # (B, T, h, w), α̂
    scores: torch.Tensor  # (B, T, h, w), the exponents of the first f, Algorithm 1, line 4
    betas: dict  # see memory.LayerOutput
    memory: Memory  # for the steps that follow


def each_step(network, x):
    """Apply the network to each step of each clip: (B, T, …) → (B, T, …)."""
    return network(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def projection(channels, C, depth):
    """1×1 convolutions with batch norm, and ReLU but for the last: (N, channels, h, w) → (N, C, …).

    Each of `depth` layers has half of the channels of the one before, but C at least; the last C.
    """
    layers = []
    for i in range(1, depth + 1):
        width = C if i == depth else max(C, channels // 2)
        layers += [nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers[:-1])


class SpaceTime(nn.Module):
    """From encoder features to map and logits. is_cosine: vectors have length 1 before memory."""

    def __init__(self, channels_v=2048, channels_a=512, classes=28, C=256, depth_v=3, depth_a=2,
                 is_cosine=True, **memory_options):
        super().__init__()
        self.project_v = projection(channels_v, C, depth_v)
        self.project_a = projection(channels_a, C, depth_a)
        self.memory, self.is_cosine = MemoryLayer(C, **memory_options), is_cosine
        self.mlp = nn.Sequential(nn.Linear(2 * C, C), nn.ReLU(), nn.Linear(C, classes))

    def project(self, features_v, features_a):
        """→ x_v (B, T, C, h, w), x_a (B, T, C, m, n). With is_cosine, |xᵥ(i,j)| = |φ(xₐ)| = 1
        before the memories: after them it would undo what β and α have weighed."""
        x_v = each_step(self.project_v, features_v).float()
        x_a = each_step(self.project_a, features_a).float()
        if self.is_cosine:
            x_v = F.normalize(x_v, dim=-3)
            x_a = x_a / phi(x_a).norm(dim=-1).clamp(min=1e-12)[..., None, None, None]
        return x_v, x_a

    def forward(self, features_v, features_a, past=EMPTY) -> Output:
        """The localization map (3.3) and the logits of the event categories (3.4).

            α̂ₐᵥᵗ = f(x̂ₐᵗ, x̂ₐᵥᵗ),   f of Eq. (1)
            Oᵗ = [Σᵢⱼ x̂ₐᵥᵗ(i,j) ; φ(x̂ₐᵗ)],   logits = MLP(Oᵗ)

        φ makes the audio map the "feature vector" of 3.4. Without cross-modal memory α̂ is the map
        of line 4, as in the authors' code. features_v (B, T, Dᵥ, h, w), features_a (B, T, Dₐ, m,
        n); past: the memory that the call for the steps before returned."""
        x_v, x_a = self.project(features_v, features_a)
        with torch.autocast(x_v.device.type, enabled=False):  # exponentials need float32
            x_av_hat, x_a_hat, scores, betas, memory = self.memory(x_a, x_v, past)
            last = scores  # (B, T, h, w)
            if self.memory.has_cross:
                last = spatial_scores(x_av_hat, x_a_hat, self.memory.temperature)
            joint = torch.cat((x_av_hat.sum((-2, -1)), phi(x_a_hat)), -1)  # (B, T, 2C)
        return Output(self.mlp(joint), spatial_softmax(last), scores, betas, memory)


class Stmnet(nn.Module):
    """The whole network. Frozen encoders stay in evaluation mode and get no gradient."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.visual_encoder, self.audio_encoder = VisualEncoder(config), AudioEncoder(config)
        self.space_time = SpaceTime(
            self.visual_encoder.channels, self.audio_encoder.channels, classes, config.C,
            config.depth_v, config.depth_a, config.similarity == "cosine", K=config.K,
            heads=config.heads, ablation=config.memory, temperature=config.tau)
        encoders = {"vision": self.visual_encoder, "audio": self.audio_encoder}
        self.frozen = [x for name, x in encoders.items() if name not in config.trained_encoders]
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
