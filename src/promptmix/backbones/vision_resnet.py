"""CLIP's ModifiedResNet: a three-convolution stem, anti-aliased strides, attention pooling.

Parameter names are those of OpenAI's files below ``visual.``, so that their weights load without a table.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.configs import ModifiedResNetConfig

__all__ = ["ModifiedResNet"]

_EXPANSION = 4  # a bottleneck block gives four times its inner width


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        # Strides are average pools before a 1 x 1 convolution, never strided convolutions.
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(inputs, outputs, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = functional.relu(self.bn1(self.conv1(hidden)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        return functional.relu(self.bn3(self.conv3(self.pool(hidden))) + shortcut)


class _AttentionPool(nn.Module):
    """One query, the mean of all positions, attends to the mean and every position."""

    def __init__(self, side: int, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(nn.init.normal_(torch.empty(side * side + 1, width), std=width**-0.5))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, outputs)

    def forward(self, hidden: Float[Tensor, "image width height side"]) -> Float[Tensor, "image embedding"]:
        positions = hidden.flatten(2).transpose(1, 2)
        positions = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1) + self.positional_embedding
        query, key, value = (
            projection(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, part in ((self.q_proj, positions[:, :1]), (self.k_proj, positions), (self.v_proj, positions))
        )
        pooled = functional.scaled_dot_product_attention(query, key, value)
        embedding: Tensor = self.c_proj(pooled.transpose(1, 2).flatten(1))
        return embedding


class ModifiedResNet(nn.Module):
    """The residual image tower of CLIP's RN50, RN101 and their wider kin, of any width and depth."""

    def __init__(self, config: ModifiedResNetConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inputs = width
        stages: list[nn.Sequential] = []
        for stage, blocks in enumerate(config.layers):
            inner = width * 2**stage
            stride = 1 if stage == 0 else 2
            modules = [_Bottleneck(inputs, inner, stride)]
            inputs = inner * _EXPANSION
            modules += [_Bottleneck(inputs, inner, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*modules))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attnpool = _AttentionPool(config.image_size // 32, inputs, config.heads, embedding_width)

    def forward(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image embedding"]:
        """Features of preprocessed pictures, NOT normalised."""
        hidden = functional.relu(self.bn1(self.conv1(pixels)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        hidden = self.avgpool(functional.relu(self.bn3(self.conv3(hidden))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        embedding: Tensor = self.attnpool(hidden)
        return embedding
