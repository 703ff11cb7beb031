"""What the tests of the protocols share: a backbone, small folders of pictures, and plans over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.drawn_task import block_of_classes, draw_shots, draw_tests
from promptmix.data.pictograms import UNSEEN_STYLES, DrawnPicture
from promptmix.protocols.base import Plan
from promptmix.protocols.make_plan import make_plan

CLASSES = block_of_classes(0)[0][:5]
QUICK = ("recipe.epochs=1", "augmentation.views=0")


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def write_pictures(folder: Path, drawn: list[DrawnPicture]) -> None:
    for number, one in enumerate(drawn):
        path = folder / one.class_name / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        one.image.save(path)


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes with train and test folders."""
    folder = tmp_path_factory.mktemp("data") / "split"
    write_pictures(folder / "train", draw_shots(CLASSES, UNSEEN_STYLES, 6, 1))
    write_pictures(folder / "test", draw_tests(CLASSES, UNSEEN_STYLES, 2))
    return folder


@pytest.fixture(scope="session")
def plain_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes without parts, ten pictures each; two of the names are those of ``split_photos``, in another spelling."""
    folder = tmp_path_factory.mktemp("data") / "plain"
    write_pictures(folder, draw_shots(CLASSES[:2] + block_of_classes(0)[1][:2], UNSEEN_STYLES, 10, 2))
    (folder / CLASSES[0]).rename(folder / CLASSES[0].upper())
    return folder


@pytest.fixture
def small_plan(backbone: Backbone, split_photos: Path) -> Callable[..., Plan]:
    """A plan over ``split_photos``, quick unless told otherwise."""

    def make(protocol: str = "few-shot", **options: Any) -> Plan:
        asked = {"data": [str(split_photos)], "methods": ["zero-shot", "coop"], "shots": [2], "seeds": [1], "overrides": QUICK}
        return make_plan(protocol, backbone, **{**asked, **options})

    return make
