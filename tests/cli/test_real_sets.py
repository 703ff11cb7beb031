"""The sets of real pictures beside the checkout: unpacked, checked and learnt from, on the bundled backbone and on one of each format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backbone_files import write_clip, write_open_clip, write_openai_archive
from tests.parity.siglip_files import write_siglip

Promptmix = Callable[..., Any]
# The archive, the source within it, and how many classes it has.
SETS = {
    "clothing": ("clothing", 10),
    "grocery": ("grocery", 43),
    "ucmerced_aerial": ("ucmerced_aerial", 21),
    "emoji_styles": ("emoji_styles/noto", 42),
}


@pytest.fixture(scope="module")
def unpacked(shared: Path, tmp_path_factory: pytest.TempPathFactory, promptmix: Promptmix) -> Callable[[str], Path]:
    """The source of a set, unpacked once."""
    root = tmp_path_factory.mktemp("sets")

    def source(name: str) -> Path:
        archive = shared / "data" / f"{name}.tar"
        if not archive.is_file():
            pytest.skip(f"{name}.tar is not among the shared data")
        if not (root / name).is_dir():
            done = promptmix("data", "unpack", archive, "--out", root / name)
            assert done.code == 0, done
        inside = SETS[name][0].partition("/")[2]
        return root / name / inside

    return source


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_set_is_checked_and_learnt_from(
    name: str, unpacked: Callable[[str], Path], promptmix: Promptmix, tmp_path: Path
) -> None:
    source = unpacked(name)
    checked = promptmix("data", "check", source, "--shots", "1", "--json")
    assert checked.code == 0, checked
    assert json.loads(checked.out)
    trained = promptmix(
        "train", source, "--out", tmp_path / "run", "--shots", "1", "--epochs", "2", "--set", "augmentation.views=0", "--json"
    )
    assert trained.code == 0, trained
    result = json.loads(trained.out)
    assert len(result["metrics"]["per_class"]) == SETS[name][1]
    assert 0 < result["zero_shot"]["accuracy"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "open_clip", "openai", "openai resnet", "siglip"])
def test_a_backbone_of_each_format_learns_from_photographs(
    kind: str, unpacked: Callable[[str], Path], promptmix: Promptmix, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    if kind == "transformers":
        write_clip(backbone, "quick_gelu")
    elif kind == "open_clip":
        write_open_clip(backbone)
    elif kind == "siglip":
        pytest.importorskip("transformers", reason="the transformers library is for development only")
        write_siglip(backbone, context_length=40)  # its tokenizer spells most names out
    else:
        backbone = tmp_path / "clip.pt"
        write_openai_archive(backbone, resnet=kind == "openai resnet", torchscript=kind == "openai")
    source = unpacked("clothing")
    out = tmp_path / "run"
    prompts = ("--set", 'method.groups=[["a {}."], ["the {}."]]')  # these small towers have little room
    options = (*prompts, "--shots", "2", "--epochs", "2", "--set", "augmentation.views=0")
    trained = promptmix("train", source, "--out", out, "--backbone", backbone, *options)
    assert trained.code == 0, trained
    measured = promptmix("eval", out, source, "--json")
    assert measured.code == 0, measured
    assert json.loads(measured.out)["metrics"]["num_pictures"] == 370
