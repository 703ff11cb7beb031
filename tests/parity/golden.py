"""The golden vectors: how a case is read, the backbone they were made with, and how close ours must come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.weights import load_files


def read_case(shared: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = shared / "golden"
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def golden_backbone(shared: Path) -> Backbone:
    return load_files(shared / "golden" / "backbone", "golden")


def close(ours: Tensor, golden: Tensor) -> None:
    torch.testing.assert_close(ours.float(), golden, rtol=1e-4, atol=2e-5)


def same_gradient(ours: Tensor | None, golden: Tensor) -> None:
    assert ours is not None
    assert ours.numel() == golden.numel()
    assert float((ours.reshape(golden.shape) - golden).abs().max() / golden.abs().max()) < 1e-4


def encoded(backbone: Backbone, images: Tensor) -> Tensor:
    assert backbone.vision is not None
    return functional.normalize(backbone.vision(images), dim=-1)
