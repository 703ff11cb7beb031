"""MaPLe and PromptSRC learn: coloured pictures that an image tower knows in full light, and is taught to tell apart in the dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.backbone_files import write_with_vision_transformer
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.data.records import LabelledPictures
from promptmix.inference.predictor import Predictor
from promptmix.methods.registry import build_method
from promptmix.runtime import numpy_generator
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (30, 50, 220),
    "yellow": (235, 220, 40),
    "orange": (240, 140, 20),
    "purple": (140, 40, 180),
    "brown": (120, 70, 30),
    "pink": (250, 150, 190),
}
CLASSES = tuple(COLOURS)


def pictures(per_class: int, seed: int, dark: bool) -> LabelledPictures:
    """Squares of a colour, each a little different, with noise."""
    generator = numpy_generator(seed, "coloured squares")
    drawn: list[Image.Image] = []
    for name in (name for name in CLASSES for _ in range(per_class)):
        colour = np.array(COLOURS[name]) * generator.uniform(0.8, 1.1) + generator.normal(0, 12, 3)
        light = 0.45 * colour + 30 if dark else colour
        drawn.append(Image.fromarray(np.clip(light + generator.normal(0, 25, (64, 64, 3)), 0, 255).astype(np.uint8)))
    labels = [label for label in range(len(CLASSES)) for _ in range(per_class)]
    return LabelledPictures(pictures=drawn, labels=labels, class_names=CLASSES, description="coloured squares")


def pixels(some: LabelledPictures) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(one) for one in some.pictures]))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Random blocks, whose last projection is fitted so that squares in full light lie where the texts of their colours lie."""
    folder = tmp_path_factory.mktemp("backbone")
    write_with_vision_transformer(folder)
    backbone = load_backbone(str(folder), device="cpu")
    texts, shown = build_method("zero-shot", {}, backbone, CLASSES).encode_classes(CLASSES)[0], pictures(20, 5, dark=False)
    tower = backbone.vision
    assert isinstance(tower, VisionTransformer)
    last_states: list[Tensor] = []
    hook = tower.post_norm.register_forward_hook(lambda module, given, made: last_states.append(made))
    with torch.no_grad():
        backbone.encode_pixels(pixels(shown))
        hook.remove()
        tower.projection.weight.copy_(torch.linalg.lstsq(last_states[0], texts[shown.labels]).solution.T)
    return backbone


CONFIGS: dict[str, dict[str, Any]] = {
    "maple": {"epochs": 20, "rate": 0.035, "batch_size": 4},
    "promptsrc": {"epochs": 20, "rate": 0.005, "batch_size": 4},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_learns(name: str, backbone: Backbone, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"method": name, "recipe": CONFIGS[name], "augmentation": {"views": 0}})
    shots, test = pictures(8, 1, dark=True), pictures(10, 2, dark=True)
    outcome = run(config, shots, test, backbone=backbone, out=tmp_path / "run")
    assert outcome.result.metrics["accuracy"] - outcome.result.zero_shot["accuracy"] >= 0.1
    zero_shot = run(RunConfig(method="zero-shot"), shots, backbone=backbone).model
    right, right_before = (told_right(Predictor(one, backbone=backbone), shots) for one in (outcome.model, zero_shot))
    assert right - right_before >= 0.1
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
    losses = [json.loads(line)["loss"] for line in log.splitlines()]
    assert losses[-1] < 0.85 * losses[0]


def told_right(predictor: Predictor, some: LabelledPictures) -> float:
    return float((predictor.logits(some.pictures).argmax(dim=1) == torch.tensor(some.labels)).float().mean())


def test_in_full_light_there_was_little_to_learn(backbone: Backbone) -> None:
    zero_shot = run(RunConfig(method="zero-shot"), pictures(2, 1, dark=False), backbone=backbone).model
    assert told_right(Predictor(zero_shot, backbone=backbone), pictures(10, 6, dark=False)) > 0.9
