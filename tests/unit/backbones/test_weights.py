"""Backbone folders: what is written is read again, and what does not fit is named, with both shapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.backbone_files import SMALL_TOKENIZER
from torch import Tensor

from promptmix.backbones.base import Backbone, build_vision_tower
from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.registry import bundled_folder, load_backbone
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.weights import load_files, save_folder
from promptmix.errors import BackboneError

TEXT = {
    "width": 16, "layers": 2, "heads": 2, "mlp_width": 24, "context_length": 12, "vocabulary_size": 1034,
    "activation": "quick_gelu", "layer_norm_epsilon": 1e-5, "start_token": 1032, "end_token": 1033,
}  # fmt: skip
TRANSFORMER = {
    "kind": "vision_transformer", "image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24,
    "activation": "gelu", "layer_norm_epsilon": 1e-5,
}  # fmt: skip
RESNET = {"kind": "modified_resnet", "image_size": 32, "width": 8, "layers": [1, 1, 1, 1], "heads": 4}


def towers_of(config: BackboneConfig) -> dict[str, torch.nn.Module]:
    """Towers of random weights that half precision holds exactly."""
    towers: dict[str, torch.nn.Module] = {
        "text": TextTower(config.text, config.embedding_width),
        "vision": build_vision_tower(config),
    }
    generator = torch.Generator().manual_seed(0)
    for tower in towers.values():
        for name, value in tower.state_dict().items():
            if value.is_floating_point():
                least = 0.5 if name.endswith("running_var") else -0.4
                value.copy_(torch.rand(value.shape, generator=generator).add(least).half())
        tower.eval()
    return towers


def write(folder: Path, vision: dict[str, Any] = TRANSFORMER) -> dict[str, torch.nn.Module]:
    """A small backbone in our own format, with the bundled tokenizer; returns its towers."""
    config = BackboneConfig.model_validate(
        {
            "embedding_width": 8,
            "text": TEXT,
            "vision": vision,
            "preprocess": {"resize": 32, "crop": 32, "mean": [0.5, 0.4, 0.3], "standard_deviation": [0.2, 0.3, 0.4]},
        }
    )
    towers = towers_of(config)
    folder.mkdir(exist_ok=True)
    tokenizer = SMALL_TOKENIZER.read_text(encoding="utf-8")
    save_folder(folder, config, towers, torch.tensor(3.0), tokenizer)
    return towers


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def problem_of(folder: Path) -> str:
    """What is said of a folder that cannot be used; it is one line."""
    with pytest.raises(BackboneError) as caught:
        load_files(folder, "small")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("vision", [TRANSFORMER, RESNET], ids=["vision_transformer", "modified_resnet"])
def test_what_is_written_is_read_again(vision: dict[str, Any], tmp_path: Path) -> None:
    towers = write(tmp_path, vision)
    backbone = load_files(tmp_path, "small")
    assert backbone.text is not None
    assert backbone.vision is not None
    for mine, theirs in ((backbone.text, towers["text"]), (backbone.vision, towers["vision"])):
        assert not mine.training
        for name, value in mine.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(value, theirs.state_dict()[name]), name
        assert not any(parameter.requires_grad for parameter in mine.parameters())
    assert backbone.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    given = (pixels.float() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(towers["vision"](given.permute(0, 3, 1, 2)), dim=-1)
        torch.testing.assert_close(backbone.encode_pixels(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_tower_that_is_not_needed_is_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    pictures = load_files(tmp_path, "small", with_text=False)
    texts = load_files(tmp_path, "small", with_vision=False)
    assert (pictures.text, pictures.tokenizer, texts.vision) == (None, None, None)
    assert pictures.fingerprint == texts.fingerprint == load_files(tmp_path, "small").fingerprint
    with pytest.raises(BackboneError, match="without its text tower"):
        pictures.require_text()
    with pytest.raises(BackboneError, match="without its image tower"):
        texts.encode_pixels(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_the_fingerprint_is_that_of_weights_and_pictures_not_of_the_place(tmp_path: Path) -> None:
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = load_files(tmp_path / "a", "a").fingerprint
    assert load_files(tmp_path / "b", "b").fingerprint == first

    def nudge(tensors: dict[str, Tensor]) -> None:
        tensors["text.blocks.1.mlp_in.bias"][3] += 0.5

    change_tensors(tmp_path / "b", nudge)
    assert load_files(tmp_path / "b", "b").fingerprint != first
    change_config(tmp_path / "a", lambda content: content["preprocess"].update(mean=[0.5, 0.4, 0.2]))
    assert load_files(tmp_path / "a", "a").fingerprint != first


@pytest.mark.parametrize(
    "name", ["text.projection.weight", "text.blocks.1.attention_norm.bias", "vision.class_embedding", "logit_scale"]
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.pop(name))
    assert name in problem_of(tmp_path)


@pytest.mark.parametrize("name", ["text.blocks.2.mlp_in.bias", "vision.surprise", "surprise"])
def test_a_tensor_without_a_place_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({name: torch.zeros(2)}))
    assert name in problem_of(tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({"text.blocks.0.mlp_in.weight": torch.zeros(24, 15)}))
    message = problem_of(tmp_path)
    for words in ("text.blocks.0.mlp_in.weight", "(24, 15)", "(24, 16)"):
        assert words in message


def test_a_scale_of_many_numbers_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update(logit_scale=torch.zeros(3)))
    assert "logit_scale is (3,)" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((8, 16), float("nan")), "not finite"),
        (torch.zeros(8, 16, dtype=torch.int8), "int8"),
        (torch.zeros(8, 16, dtype=torch.complex64), "complex64"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_named(value: Tensor, words: str, tmp_path: Path) -> None:
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({"text.projection.weight": value}))
    message = problem_of(tmp_path)
    assert "text.projection.weight" in message
    assert words in message
    write(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update(logit_scale=torch.tensor(1000.0)))
    assert "logit_scale is 1000" in problem_of(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_weights_cut_short_are_named(kept: int, tmp_path: Path) -> None:
    write(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "model.safetensors is damaged" in problem_of(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    assert name in problem_of(tmp_path)
    (tmp_path / name).mkdir()
    assert name in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["text"].pop("width"), ("text.width",)),
        (lambda content: content["text"].update(width="wide"), ("text.width",)),
        (lambda content: content["text"].update(width=-1), ("text.width", "greater than 0")),
        (lambda content: content["text"].update(heads=3), ("text.width is 16", "3 heads")),
        (lambda content: content["text"].update(activation="relu"), ("text.activation", "quick_gelu")),
        (lambda content: content["text"].update(colour=1), ("text.colour",)),
        (lambda content: content["text"].update(end_token=7), ("end token is 7", "1033")),
        (lambda content: content["text"].update(vocabulary_size=1000), ("1000",)),
        (lambda content: content["vision"].update(kind="swin"), ("vision", "swin")),
        (lambda content: content["vision"].update(layers=3), ("vision.blocks.2",)),
        (lambda content: content["vision"].update(image_size=64), ("64",)),
        (
            lambda content: content["vision"].update(patch_size=64),
            ("vision.patch_embedding.weight", "(16, 3, 16, 16)", "(16, 3, 64, 64)"),
        ),
        (lambda content: content["text"].update(layers=10_000_000), ("text.layers", "1000")),
        (lambda content: content["text"].update(width=10**30), ("text.width",)),
        (lambda content: content["text"].update(vocabulary_size=9_000_000), ("text.token_embedding.weight", "(9000000, 16)")),
        (lambda content: content["vision"].update(patch_size=10**9), ("vision.patch_size",)),
        (lambda content: content["preprocess"].update(resize=1_000_000), ("preprocess.resize",)),
        (lambda content: content["preprocess"].update(resize=16), ("preprocess", "16 pixels", "32 cannot be cut")),
        (lambda content: content["preprocess"].update(resize=True), ("resize is True, not a number",)),
        (lambda content: content["preprocess"].update(mean=[0.5]), ("preprocess.mean",)),
        (lambda content: content["preprocess"].update(standard_deviation=[0, 1, 1]), ("standard_deviation",)),
        (lambda content: content.update(text=[]), ("text",)),
        (lambda content: content.update(embedding_width=9), ("projection", "(8, 16)", "(9, 16)")),
        (lambda content: content.update(format_version=2), ("version 2",)),
        (lambda content: content.update(format="another"), ("unknown kind of backbone (another)",)),
    ],
)
def test_a_config_that_does_not_fit_is_named(
    change: Callable[[dict[str, Any]], object], words: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path)
    change_config(tmp_path, change)
    message = problem_of(tmp_path)
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", [b"", b"null", b"3", b"\xff\xfe", b'{"a": ' * 100_000, b'{"model_type": "clip"}'])
def test_a_config_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    assert "config.json" in problem_of(tmp_path)


def test_what_is_no_folder_is_said_with_what_a_backbone_is(tmp_path: Path) -> None:

    for name in ("no-such-folder", "openai/clip-vit-base-patch16"):
        with pytest.raises(BackboneError, match=r"a backbone is .bundled., a folder|HF_HUB_OFFLINE"):
            load_backbone(name, device="cpu")


def test_tuned_norms_must_be_those_of_the_tower(tmp_path: Path) -> None:
    write(tmp_path)
    backbone = load_files(tmp_path, "small")
    assert backbone.vision is not None
    changed = backbone.with_block_norms({"blocks.1.mlp_norm.weight": torch.full((16,), 3.0)})
    assert changed.fingerprint != backbone.fingerprint
    assert changed.vision is not None
    assert torch.equal(changed.vision.state_dict()["blocks.1.mlp_norm.weight"], torch.full((16,), 3.0))
    assert not torch.equal(backbone.vision.state_dict()["blocks.1.mlp_norm.weight"], torch.full((16,), 3.0))
    for name, width in (("blocks.1.mlp_norm.weight", 15), ("blocks.2.mlp_norm.weight", 16), ("pre_norm.weight", 16)):
        with pytest.raises(BackboneError, match=name):
            backbone.with_block_norms({name: torch.zeros(width)})
    write(tmp_path / "resnet", RESNET)
    with pytest.raises(BackboneError, match="no vision transformer"):
        load_files(tmp_path / "resnet", "resnet").with_block_norms({})


def test_the_bundled_backbone_is_what_ships() -> None:
    backbone: Backbone = load_backbone(device="cpu")
    assert backbone.name == "bundled"
    assert backbone.text is not None
    assert backbone.vision is not None
    assert sum(path.stat().st_size for path in bundled_folder().iterdir()) < 10_000_000
