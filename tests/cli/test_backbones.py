"""info, train, eval, predict and classes on a backbone of every format, and what is said of one that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backbone_files import write_clip, write_open_clip, write_openai_archive
from tests.parity.siglip_files import write_siglip

from promptmix.backbones.registry import bundled_folder

Promptmix = Callable[..., Any]


def made(kind: str, folder: Path) -> Path:
    """A backbone of this format; the folder or the archive."""
    if kind == "own":
        shutil.copytree(bundled_folder(), folder / "own")
        return folder / "own"
    if kind == "transformers":
        write_clip(folder / "clip", "quick_gelu")
        return folder / "clip"
    if kind == "open_clip":
        write_open_clip(folder / "open_clip")
        return folder / "open_clip"
    if kind.startswith("openai"):
        write_openai_archive(folder / "clip.pt", resnet=kind == "openai resnet", torchscript=kind != "openai resnet")
        return folder / "clip.pt"
    pytest.importorskip("transformers", reason="the transformers library is for development only")
    write_siglip(folder / kind, kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["own", "transformers", "open_clip", "openai", "openai resnet", "siglip", "siglip2"])
def test_all_verbs_work_on_every_format(promptmix: Promptmix, photos: Path, tmp_path: Path, kind: str) -> None:
    backbone = made(kind, tmp_path)
    told = promptmix("info", backbone, "--json")
    told.works()
    facts = json.loads(told.out)
    assert facts["architecture"].startswith("SigLIP" if kind.startswith("siglip") else "CLIP")
    assert facts["parameters"] == facts["parameters of the image tower"] + facts["parameters of the text tower"]

    run = tmp_path / "run"
    # The tower of SigLIP that is written here has room for 16 tokens.
    prompts = ("--set", 'method.groups=[["a {}."], ["the {} at night."]]')
    promptmix(
        "train",
        photos,
        "--out",
        run,
        "--backbone",
        backbone,
        "--shots",
        "3",
        "--epochs",
        "2",
        "--set",
        "augmentation.views=1",
        *prompts,
    ).works()
    measured = promptmix("eval", run, photos, "--json")
    measured.works()
    accuracy = json.loads(measured.out)["metrics"]["accuracy"]
    assert 0 <= accuracy <= 1
    predicted = promptmix("predict", run, photos, "--json")
    predicted.works()
    lines = [json.loads(line) for line in predicted.out.splitlines()]
    right = [Path(line["path"]).parent.name == line["class"] for line in lines]
    assert sum(right) / len(right) == pytest.approx(accuracy)
    promptmix("classes", "add", run, "gear").works()
    assert promptmix("classes", "list", run).out.split() == ["anchor", "cat", "skull", "gear"]


def test_info_says_what_people_ask_of_a_backbone(promptmix: Promptmix, tmp_path: Path) -> None:
    folder = made("own", tmp_path)
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n# A card\n", encoding="utf-8")
    said = promptmix("info", folder)
    said.works()
    for words in (
        "fingerprint: ",
        "licence of the weights: mit",
        "pre-processing: bicubic, short side",
        "context length: 77",
        "parameters: ",
    ):
        assert words in said.out
    for card in ("", "no head", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nlicense: 3\n---\n", "---\nlicense: mit\n"):
        (folder / "README.md").write_text(card, encoding="utf-8")
        assert "licence of the weights: not given" in promptmix("info", folder).out
    (folder / "README.md").write_bytes(b"\xff\xfe---")
    assert "licence of the weights: not given" in promptmix("info", folder).out
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: own-terms\n---\n", encoding="utf-8")
    assert "licence of the weights: other, own-terms" in promptmix("info", folder).out


def test_precision_is_an_option_of_every_verb_that_calculates(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    promptmix("train", photos, "--out", run, "--shots", "3", "--epochs", "1", "--precision", "bf16").works()
    assert json.loads((run / "run.json").read_text())["config"]["precision"] == "bf16"
    for verb in ("eval", "predict"):
        promptmix(verb, run, photos, "--precision", "bf16").works()
        promptmix(verb, run, photos).works()  # a model is not bound to the precision it was trained in
        promptmix(verb, run, photos, "--precision", "fp8").fails(3, "unknown precision 'fp8'", "fp16")
    promptmix("train", photos, "--out", tmp_path / "no", "--precision", "half").fails(3, "unknown precision 'half'")
    tuned = ("--set", "method.visual_layer_norms=true", "--precision", "bf16", "--backbone", made("transformers", tmp_path))
    promptmix("train", photos, "--out", tmp_path / "no", "--shots", "2", *tuned).fails(3, "needs --precision fp32")


def test_what_is_no_backbone_says_what_one_is(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    for name, words in (
        ("nowhere", "a folder with a CLIP or SigLIP"),
        (tmp_path / "notes.txt", "no zip archive of weights"),
        (photos, "config.json is missing"),
        ("someone/absent", "HF_HUB_OFFLINE"),
    ):
        promptmix("info", name).fails(5, words)
        promptmix("train", photos, "--out", tmp_path / "run", "--backbone", name).fails(5, words)
    assert not (tmp_path / "run").exists()
