"""OpenAI's archives and open_clip folders give the features of the models they hold, and say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.backbone_files import (
    CONTEXT_LENGTH,
    EMBEDDING_WIDTH,
    IMAGE_SIZE,
    OPEN_CLIP_CONFIG,
    PATCH_SIZE,
    VOCABULARY_SIZE,
    WIDTH,
    TextbookClip,
    some_input,
    write_open_clip,
    write_openai_archive,
)
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.text_tower import TextTower
from promptmix.errors import BackboneError


def assert_same_features(backbone: Backbone, model: TextbookClip) -> None:
    pixels, tokens = some_input()
    assert backbone.vision is not None
    assert isinstance(backbone.text, TextTower)
    with torch.no_grad():
        images, texts = model(pixels, tokens)
        ours = backbone.text.encode_padded(backbone.text.token_embedding(tokens), tokens.argmax(dim=1))
        # As they are compared: normalised.
        for mine, theirs in ((backbone.vision(pixels), images), (ours, texts)):
            torch.testing.assert_close(functional.normalize(mine), functional.normalize(theirs), rtol=0, atol=1e-6)
    assert backbone.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()), rel=1e-3)


def problem_of(place: Path) -> str:
    """What is said of a backbone that cannot be used; it is one line."""
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(place), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("resnet", [False, True])
@pytest.mark.parametrize("torchscript", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_an_archive_holds_the_model_that_was_written(torchscript: bool, resnet: bool, half: bool, tmp_path: Path) -> None:
    model = write_openai_archive(tmp_path / "clip.pt", torchscript=torchscript, resnet=resnet, half=half)
    backbone = load_backbone(str(tmp_path / "clip.pt"), device="cpu")
    assert_same_features(backbone, model)
    config = backbone.config
    assert (config.embedding_width, config.text.width, config.text.layers) == (EMBEDDING_WIDTH, WIDTH, 2)
    assert (config.text.context_length, config.text.vocabulary_size) == (CONTEXT_LENGTH, VOCABULARY_SIZE)
    assert config.vision.image_size == config.preprocess.crop == IMAGE_SIZE
    if config.vision.kind == "modified_resnet":
        assert (config.vision.width, config.vision.layers, config.vision.heads) == (8, (1, 2, 1, 1), 4)
    else:
        assert (config.vision.patch_size, config.vision.heads, config.text.heads) == (PATCH_SIZE, 2, 2)
        assert config.vision.activation == config.text.activation == "quick_gelu"


def test_an_archive_needs_no_tokenizer_beside_it(tmp_path: Path) -> None:
    write_openai_archive(tmp_path / "clip.pt")
    tokenizer = load_backbone(str(tmp_path / "clip.pt"), device="cpu").tokenizer
    assert tokenizer is not None
    # Known numbers of OpenAI's vocabulary.
    assert tokenizer.encode("a photo of a cat") == (320, 1125, 539, 320, 2368)
    assert (tokenizer.start_token, tokenizer.end_token) == (49406, 49407)


def test_a_training_checkpoint_is_no_archive_of_openai(tmp_path: Path) -> None:
    # Nothing in it tells activation, heads and pictures; in a folder with its config it is read.
    model = write_open_clip(tmp_path)
    state = {"epoch": 3, "name": "run", "state_dict": dict(model.state_dict()), "optimizer": {"state": {}, "lr": 0.1}}
    torch.save(state, tmp_path / "epoch_3.pt")
    assert "open_clip_config.json" in problem_of(tmp_path / "epoch_3.pt")
    (tmp_path / "open_clip_model.safetensors").unlink()
    (tmp_path / "epoch_3.pt").rename(tmp_path / "open_clip_pytorch_model.bin")
    assert_same_features(load_backbone(str(tmp_path), device="cpu"), model)


def test_a_tokenizer_beside_an_archive_is_another_models(tmp_path: Path) -> None:
    write_openai_archive(tmp_path / "clip.pt")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b\n")
    tokenizer = load_backbone(str(tmp_path / "clip.pt"), device="cpu").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("a photo") == (320, 1125)


@pytest.mark.parametrize(("width", "crop", "starts"), [(35, 32, (1, 2)), (37, 32, (2, 2)), (33, 32, (0, 0)), (39, 32, (3, 4))])
def test_the_centre_is_where_each_project_cuts_it(width: int, crop: int, starts: tuple[int, int]) -> None:
    # Where three pixels are too many, transformers begins at the second pixel, OpenAI and open_clip (by torchvision) at the third.
    columns = np.arange(width, dtype=np.uint8)[None, :, None].repeat(crop, axis=0).repeat(3, axis=2)
    for rounding, start in zip(("down", "nearest"), starts, strict=True):
        fields = {"resize": crop, "crop": crop, "mean": (0, 0, 0), "standard_deviation": (1, 1, 1), "crop_rounding": rounding}
        view = resize_and_crop(Image.fromarray(columns), PreprocessConfig.model_validate(fields))
        assert view[0, :, 0].tolist() == list(range(start, start + crop))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("half", [False, True])
def test_an_open_clip_folder_holds_the_model_that_was_written(activation: str, half: bool, tmp_path: Path) -> None:
    model = write_open_clip(tmp_path, activation=activation, half=half)
    backbone = load_backbone(str(tmp_path), device="cpu")
    assert_same_features(backbone, model)
    assert backbone.config.text.activation == activation
    assert backbone.config.text.heads == 4
    assert backbone.config.vision.kind == "vision_transformer"
    assert backbone.config.vision.heads == 4
    assert backbone.config.preprocess.mean == (0.5, 0.4, 0.3)
    assert backbone.config.preprocess.standard_deviation == (0.2, 0.3, 0.4)


def test_weights_of_an_open_clip_folder_may_be_a_torch_file(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path)
    torch.save(load_file(tmp_path / "open_clip_model.safetensors"), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_model.safetensors").unlink()
    assert_same_features(load_backbone(str(tmp_path), device="cpu"), model)


def test_weights_may_be_in_several_files(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path)
    whole = tmp_path / "open_clip_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    parts = {f"open_clip_model-0000{place}-of-00002.safetensors": names[place - 1 :: 2] for place in (1, 2)}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, tmp_path / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    index_path = tmp_path / "open_clip_model.safetensors.index.json"
    index_path.write_text(json.dumps(index))
    assert_same_features(load_backbone(str(tmp_path), device="cpu"), model)

    (tmp_path / next(iter(parts))).unlink()
    assert next(iter(parts)) in problem_of(tmp_path)
    index["weight_map"]["logit_scale"] = "../elsewhere.safetensors"
    index_path.write_text(json.dumps(index))
    assert "files of this folder" in problem_of(tmp_path)


def test_a_folder_of_both_formats_is_read_by_the_weights_it_has(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert_same_features(load_backbone(str(tmp_path), device="cpu"), model)
    (tmp_path / "model.safetensors").touch()
    assert "text_config is missing" in problem_of(tmp_path)


SURPRISES: list[tuple[str, str, Any, str]] = [
    ("vision_cfg", "timm_model_name", "vit_base", "another kind of tower"),
    ("text_cfg", "hf_model_name", "roberta-base", "another kind of tower"),
    ("text_cfg", "hf_tokenizer_name", "bert-base-uncased", "another kind of tower"),
    ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}, "another kind of tower"),
    ("text_cfg", "no_causal_mask", True, "another kind of tower"),
    ("text_cfg", "pool_type", "last", "another kind of tower"),
    ("vision_cfg", "pool_type", "avg", "another kind of tower"),
    ("vision_cfg", "ls_init_value", 1e-4, "another kind of tower"),
    ("vision_cfg", "wdith", 64, "did you mean 'width'"),
    ("model_cfg", "multimodal_cfg", {}, "unknown here"),
    ("vision_cfg", "image_size", [32, 48], "one whole number"),
    ("vision_cfg", "mlp_ratio", "wide", "mlp_ratio"),
    ("text_cfg", "norm_kwargs", {"elementwise_affine": False}, "only eps"),
    ("text_cfg", "width", "wide", "width"),
    ("preprocess_cfg", "resize_mode", "longest", "resize_mode"),
    ("preprocess_cfg", "interpolation", "nearest", "interpolation"),
    ("preprocess_cfg", "mean", [0.5], "mean"),
]


@pytest.mark.parametrize(("part", "key", "value", "words"), SURPRISES)
def test_a_surprising_value_names_file_and_key(part: str, key: str, value: object, words: str, tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    config = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    (config["model_cfg"] if part in ("vision_cfg", "text_cfg") else config)[part][key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    message = problem_of(tmp_path)
    assert "open_clip_config.json" in message
    assert key in message
    assert words in message


@pytest.mark.parametrize("key", ["model_cfg", "preprocess_cfg", "embed_dim", "vision_cfg", "text_cfg"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    config = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    (config if key in config else config["model_cfg"]).pop(key)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert f"{key} is missing" in problem_of(tmp_path)


def test_what_has_no_place_or_is_missing_is_named(tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    tensors = load_file(path)
    for change, words in (
        ({"visual.transformer.resblocks.1.mlp.c_fc.bias": None}, "vision.blocks.1.mlp_in.bias"),
        ({"visual.transformer.resblocks.2.ln_1.weight": torch.zeros(WIDTH)}, "vision.blocks.2.attention_norm.weight"),
        ({"visual.surprise": torch.zeros(1)}, "vision.surprise"),
        ({"text_projection": torch.zeros(EMBEDDING_WIDTH, WIDTH)}, "text.projection.weight"),
    ):
        changed: dict[str, Tensor | None] = {**tensors, **change}
        save_file({name: value for name, value in changed.items() if value is not None}, path)
        assert words in problem_of(tmp_path)


def test_without_a_known_vocabulary_a_tokenizer_is_asked_for(tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    config = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = 1000
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert "tokenizer.json" in problem_of(tmp_path)
