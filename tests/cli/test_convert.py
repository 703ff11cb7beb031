"""promptmix convert: published CoOp checkpoints give what CoOp computes, and whatever else is in such a file is refused or left alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.golden import close, read_case

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import bundled_folder, load_backbone
from promptmix.inference.coop_checkpoint import convert_checkpoint, read_checkpoint
from promptmix.model_folder import CARD, read_model

Promptmix = Callable[..., Any]
NAMES = ("anchor", "cat", "skull")


@pytest.fixture(scope="module")
def bundled() -> Backbone:
    return load_backbone("bundled", device="cpu")


def checkpoint(context: torch.Tensor, classes: int, start: torch.Tensor, context_length: int, prefix: str = "") -> dict[str, Any]:
    """What CoOp's trainer saves: the prompt learner, and beside it the state of the training, with objects in it."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()
    later = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50.0)
    width, length = context.shape[-1], context.shape[-2]
    state = {
        "ctx": context,
        "token_prefix": start.expand(classes, 1, width).contiguous(),
        "token_suffix": torch.zeros(classes, context_length - 1 - length, width),
    }
    return {
        "state_dict": {f"{prefix}{name}": value for name, value in state.items()},
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": later, "warmup_epoch": 1},
        "val_result": np.float64(71.9),
    }


def of_bundled(bundled: Backbone, classes: int = 3, shape: tuple[int, ...] = (4,)) -> dict[str, Any]:
    tower, tokenizer = bundled.require_text()
    start = tower.token_embedding.weight[tokenizer.start_token].detach()
    context = 0.02 * torch.randn(*shape, tower.config.width, generator=torch.Generator().manual_seed(1))
    return checkpoint(context, classes, start, tower.config.context_length)


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def golden(shared: Path) -> Backbone:
    return load_backbone(str(shared / "golden" / "backbone"), device="cpu")


def write_case(path: Path, facts: dict[str, Any], context: torch.Tensor, backbone: Backbone, prefix: str = "") -> Path:
    tower, tokenizer = backbone.require_text()
    start = tower.token_embedding.weight[tokenizer.start_token].detach()
    torch.save(checkpoint(context, len(facts["class_names"]), start, 77, prefix), path)
    return path


@pytest.mark.parametrize(
    ("case", "prefix"),
    [("end", "prompt_learner."), ("end_class_specific", "module.prompt_learner."), ("middle", ""), ("front", "")],
)
def test_the_class_features_are_those_of_the_published_code(
    shared: Path, golden: Backbone, case: str, prefix: str, tmp_path: Path
) -> None:
    facts, numbers = read_case(shared, f"coop/{case}")
    asked = facts["hyperparameters"]
    read = read_checkpoint(write_case(tmp_path / "a.pth.tar", facts, numbers["context"], golden, prefix))
    model = convert_checkpoint(read, golden, facts["class_names"], asked["class_token_position"])
    assert model.options["class_specific"] == asked["class_specific_contexts"]
    assert torch.equal(model.learnt["context"], numbers["context"])
    assert model.classifier is not None
    close(model.classifier.class_features[0], numbers["text_features"])
    close(model.classifier.logits(numbers["image_features"]), numbers["logits"])
    assert not any("another" in note for note in model.training["notes"])
    halved = convert_checkpoint(
        read_checkpoint(write_case(tmp_path / "b.pth.tar", facts, numbers["context"].half(), golden)),
        golden,
        facts["class_names"],
        asked["class_token_position"],
    )
    assert halved.learnt["context"].dtype == torch.float32
    assert halved.classifier is not None
    torch.testing.assert_close(halved.classifier.class_features[0], numbers["text_features"], rtol=0, atol=5e-3)


def test_the_command_says_where_the_model_came_from(promptmix: Promptmix, shared: Path, golden: Backbone, tmp_path: Path) -> None:
    facts, numbers = read_case(shared, "coop/middle")
    file = write_case(tmp_path / "model.pth.tar-50", facts, numbers["context"], golden)
    (tmp_path / "names.txt").write_text("\n".join(facts["class_names"]), encoding="utf-8")
    command = ["convert", file, "--backbone", shared / "golden" / "backbone", "--classes", tmp_path / "names.txt"]
    promptmix(*command, "--class-position", "middle", "--out", tmp_path / "model").works()
    model = read_model(tmp_path / "model")
    assert (model.method, model.class_names) == ("coop", tuple(facts["class_names"]))
    assert model.options["class_name_position"] == "middle"
    assert model.classifier is not None
    close(model.classifier.class_features[0], numbers["text_features"])
    came_from = {"kind": "CoOp checkpoint", "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert model.training["converted_from"] == came_from
    assert "converted from `model.pth.tar-50`" in (tmp_path / "model" / CARD).read_text(encoding="utf-8")


def test_it_is_a_model_like_any_other(promptmix: Promptmix, bundled: Backbone, photos: Path, tmp_path: Path) -> None:
    torch.save(of_bundled(bundled), tmp_path / "a.pth.tar")
    command = ["convert", tmp_path / "a.pth.tar", "--backbone", "bundled", "--classes", photos, "--out", tmp_path / "model"]
    told = promptmix(*command, "--json")
    told.works()
    assert json.loads(told.out)["classes"] == 3
    promptmix("predict", tmp_path / "model", photos / "cat").works()
    promptmix("classes", "add", tmp_path / "model", "owl").works()
    assert read_model(tmp_path / "model").class_names == (*NAMES, "owl")
    promptmix(*command).fails(4, "not empty", "--overwrite")
    done = promptmix(*command, "--overwrite")
    done.works()
    assert "4 context vectors, shared by all classes" in done.out
    assert "note: token_prefix and token_suffix of the checkpoint are not used" in done.out
    assert promptmix("convert", tmp_path / "a.pth.tar", "--classes", photos, "--out", tmp_path / "m").code == 2  # --backbone


def test_one_trained_on_another_backbone_is_told_of(promptmix: Promptmix, bundled: Backbone, names: Path, tmp_path: Path) -> None:
    saved = of_bundled(bundled)
    saved["state_dict"]["token_prefix"] = -saved["state_dict"]["token_prefix"]
    torch.save(saved, tmp_path / "a.pth.tar")
    done = promptmix("convert", tmp_path / "a.pth.tar", "--backbone", "bundled", "--classes", names, "--out", tmp_path / "model")
    assert "it was probably trained on another" in done.out


def changed(saved: dict[str, Any], **tensors: Any) -> dict[str, Any]:
    kept = {**saved["state_dict"], **{name.replace("__", "."): value for name, value in tensors.items()}}
    return {**saved, "state_dict": {name: value for name, value in kept.items() if value is not None}}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"ctx": torch.ones(4, 96), "token_prefix": None, "token_suffix": None},
            "ctx has width 96, but the text tower of 'bundled' has",
        ),
        (
            {"ctx": torch.ones(5, 4, 128), "token_prefix": None, "token_suffix": None},
            "was trained with 5 classes, but 3 are given",
        ),
        ({"token_prefix": torch.ones(7, 1, 128), "token_suffix": None}, "was trained with 7 classes, but 3 are given"),
        ({"token_prefix": torch.ones(7, 1, 128)}, "numbers of classes differ: token_prefix has 7, token_suffix has 3"),
        ({"token_suffix": torch.ones(3, 99, 128)}, "make 104 tokens, but the text tower"),
        ({"token_suffix": torch.ones(3, 9, 64)}, "token_suffix is (3, 9, 64)"),
        ({"ctx": None}, "has no ctx, but token_prefix, token_suffix; only CoOp's prompt learner is read"),
        ({"ctx": torch.ones(128)}, "ctx is (128,) of float32; it must be"),
        ({"ctx": torch.ones(99, 128)}, "at most 64 tokens"),
        ({"ctx": torch.ones(4, 128, dtype=torch.int64)}, "of int64"),
        ({"ctx": torch.full((4, 128), torch.nan)}, "ctx has numbers that are not finite"),
        ({"ctx": torch.full((4, 128), 1e300, dtype=torch.float64)}, "ctx has numbers that are not finite"),
        ({"ctx": torch.full((4, 128), 3e38)}, "ctx has numbers so large that the text tower gives none that are finite"),
        ({"meta_net__linear1__weight": torch.ones(2)}, "is of CoCoOp (it has meta_net.linear1.weight); only CoOp's"),
        ({"compound_prompts_text__0": torch.ones(2)}, "is of MaPLe"),
        ({"text_encoder__VPT_shallow": torch.ones(2)}, "such as MaPLe or PromptSRC"),
        ({"surprise": torch.ones(2)}, "has surprise besides the context"),
    ],
)
def test_what_does_not_fit_is_one_line(
    promptmix: Promptmix, bundled: Backbone, names: Path, tmp_path: Path, tensors: dict[str, Any], words: str
) -> None:
    torch.save(changed(of_bundled(bundled), **tensors), tmp_path / "a.pth.tar")
    command = ["convert", tmp_path / "a.pth.tar", "--backbone", "bundled", "--classes", names, "--out", tmp_path / "model"]
    promptmix(*command).fails(5, "a.pth.tar", words)
    assert not (tmp_path / "model").exists()


class Nasty:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_something_is_refused(promptmix: Promptmix, bundled: Backbone, names: Path, tmp_path: Path) -> None:
    command = ["convert", tmp_path / "a.pth.tar", "--backbone", "bundled", "--classes", names, "--out", tmp_path / "model"]
    for nasty in ({**of_bundled(bundled), "val_result": Nasty(tmp_path / "made")}, Nasty(tmp_path / "made")):
        torch.save(nasty, tmp_path / "a.pth.tar")
        promptmix(*command).fails(5, "data.pkl names", ".mkdir, which no table of weights needs; nothing of it was run")
    torch.save({"state_dict": {"ctx": torch.ones(2)}, "called": eval}, tmp_path / "a.pth.tar")
    promptmix(*command).fails(5, "names", "eval")
    assert not (tmp_path / "made").exists() and not (tmp_path / "model").exists()


def test_what_is_no_checkpoint_is_one_line(
    promptmix: Promptmix, bundled: Backbone, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(file: Path, *more: str) -> list[Any]:
        return ["convert", file, "--backbone", "bundled", "--classes", names, "--out", tmp_path / "model", *more]

    promptmix(*command(tmp_path / "absent.tar")).fails(5, "there is no file")
    promptmix(*command(names)).fails(5, "names.txt")
    torch.save(of_bundled(bundled), tmp_path / "a.pth.tar")
    promptmix(*command(tmp_path / "a.pth.tar", "--class-position", "back")).fails(
        3, "unknown position 'back'", "end, middle, front"
    )
    (tmp_path / "other.txt").write_text("one class\n", encoding="utf-8")
    arguments = ["--backbone", "bundled", "--classes", tmp_path / "other.txt", "--out", tmp_path / "model"]
    promptmix("convert", tmp_path / "a.pth.tar", *arguments).fails(4, "one class")
    promptmix(*command(bundled_folder() / "model.safetensors")).fails(5, "model.safetensors")
    monkeypatch.setattr("promptmix.inference.coop_checkpoint._LARGEST_FILE", 100)
    promptmix(*command(tmp_path / "a.pth.tar")).fails(5, "more than any checkpoint of prompts")
