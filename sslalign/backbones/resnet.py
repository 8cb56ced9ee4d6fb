"""ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385) with torchvision's key names.

The 3×3 convolution of a bottleneck carries the stride, as in the published weights; in the paper it
is the first 1×1.

B images of H × W pixels, C channels.

>>> resnet18().features(torch.zeros(1, 3, 64, 64)).shape
torch.Size([1, 512, 2, 2])
"""
import torch
import torch.nn.functional as F
from torch import nn


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics: buffers, nothing to train.

        y = (x − mean) / √(var + eps) · weight + bias
    """

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):  # (B, C, H, W)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)  # (C,)
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def shortcut(inputs, outputs, stride, norm):
    """The projection beside a block that changes the shape, or None."""
    if inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: (B, inputs, H, W) → (B, width, H/stride, W/stride)."""
    expansion = 1

    def __init__(self, inputs, width, stride, norm):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3), norm(width)
        self.downsample = shortcut(inputs, width, stride, norm)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions: (B, inputs, H, W) → (B, 4·width, H/stride, W/stride)."""
    expansion = 4

    def __init__(self, inputs, width, stride, norm):
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = conv(inputs, width, 1), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), norm(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), norm(outputs)
        self.downsample = shortcut(inputs, outputs, stride, norm)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem and up to four stages of `layers` blocks; each stage is twice as wide as the last.

    num_classes: None leaves out the classifier `fc`. norm: channels → module, as FrozenBatchNorm.
    last_stride: 1 keeps the last of four maps at 1/16 of the image, 2 at 1/32.
    `channels` is the width of the last map."""

    def __init__(self, block, layers, width=64, in_channels=3, num_classes=1000,
                 norm=nn.BatchNorm2d, last_stride=2):
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, width, 7, 2), norm(width)
        inputs = width
        strides = (1, 2, 2, 2)[:len(layers) - 1] + (last_stride,)
        for stage, (blocks, stride) in enumerate(zip(layers, strides, strict=True)):
            outputs = width * 2**stage * block.expansion
            first = block(inputs, width * 2**stage, stride, norm)
            rest = (block(outputs, width * 2**stage, 1, norm) for _ in range(blocks - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            inputs = outputs
        self.channels, self.stages = inputs, len(layers)
        if num_classes is not None:
            self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():  # He et al. 2015, https://arxiv.org/abs/1502.01852
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x):
        """(B, in_channels, H, W) → the map of the stem, at 1/4, and of each stage: 1/4 to 1/32."""
        maps = [F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)]
        for stage in range(self.stages):
            maps.append(getattr(self, f"layer{stage + 1}")(maps[-1]))
        return maps

    def features(self, x):
        """(B, in_channels, H, W) → the last map, of four stages (B, channels, H/32, W/32)."""
        return self.maps(x)[-1]

    def forward(self, x):
        """(B, in_channels, H, W) → logits (B, num_classes)."""
        return self.fc(self.features(x).mean((2, 3)))


def resnet18(num_classes=1000, in_channels=3, **options):
    """torchvision's resnet18-f37072fd.pth and -5c106cde.pth. options: those of ResNet."""
    return ResNet(BasicBlock, (2, 2, 2, 2), 64, in_channels, num_classes, **options)


def resnet50(num_classes=1000, in_channels=3, **options):
    """torchvision's resnet50-0676ba61.pth. options: those of ResNet."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 64, in_channels, num_classes, **options)


def resnet152(num_classes=1000, in_channels=3, **options):
    """torchvision's resnet152-394f9c45.pth. options: those of ResNet."""
    return ResNet(Bottleneck, (3, 8, 36, 3), 64, in_channels, num_classes, **options)
