"""A run on several ranks: one key for all, each picture read once, and a finished run shown where only the first has its folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from tests.many_ranks import on_ranks
from torch import Tensor

from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource, content_key
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.distributed.group import is_first
from promptmix.errors import ConfigError
from promptmix.methods.base import Recipe
from promptmix.training import run_key
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

NAMES = ("anchor", "cat")
CONFIG = RunConfig.model_validate({"method": "tip-adapter", "device": "cpu", "options": {"alpha": 1.0, "beta": 5.0}})


def pictures_in(folder: Path) -> LabelledPictures:
    paths = sorted(folder.glob("*.png"))
    return LabelledPictures(pictures=paths, labels=[int(path.name[0]) for path in paths], class_names=NAMES, description="drawn")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, drawn in enumerate(draw_set(NAMES, ("stamp",), 4, 1)):
        drawn.image.save(folder / f"{NAMES.index(drawn.class_name)} {number}.png")
    return folder


def key_of(pictures: LabelledPictures, config: RunConfig = CONFIG) -> str:
    backbone = load_backbone("bundled", device="cpu")
    return run_key.shared_run_key(config, Recipe(), "", backbone, training=pictures, measured=pictures, more_class_names=())


def known(photos: Path, out: Path) -> dict[str, Tensor]:
    """The key of a run, how many pictures were read for it, and what the run is said to have given."""
    read: list[PictureSource] = []

    def noted(picture: PictureSource) -> str:
        read.append(picture)
        return content_key(picture)

    run_key._BLOCK, run_key._SAMPLE, run_key.content_key = 3, 1, noted
    made = {"key": torch.tensor(list(key_of(pictures_in(photos)).encode())), "read": torch.tensor(len(read))}
    run_key.content_key = content_key
    outcome = run(CONFIG, pictures_in(photos), out=out if is_first() else out / "not seen from here", resume=True)
    assert outcome.model.class_names == NAMES and outcome.model.classifier is not None
    made |= {f"classifier {name}": value for name, value in outcome.model.classifier.tensors().items()}
    return {**made, "seconds": torch.tensor(outcome.result.seconds["all"], dtype=torch.float64)}


def known_on_ranks(photos: Path, out: Path) -> dict[str, Tensor]:
    """The same; and ranks that see something else do not go on."""
    made = known(photos, out)
    pictures = pictures_in(photos)
    if not is_first():
        pictures = dataclasses.replace(pictures, labels=pictures.labels[::-1])
    with pytest.raises(ConfigError, match="rank 1 has other options, pictures or backbone than rank 0"):
        key_of(pictures)
    with pytest.raises(ConfigError, match="rank 1 has other --max-memory or --skip-bad than rank 0"):
        key_of(pictures_in(photos), CONFIG if is_first() else CONFIG.model_copy(update={"max_memory": 10**10}))
    if not is_first():
        photos = Path(shutil.copytree(photos, photos.parent / "changed"))
        pictures_in(photos).pictures[-1].write_bytes(b"shorter")
    with pytest.raises(ConfigError, match="rank 1 has other pictures than rank 0"):
        key_of(pictures_in(photos))
    return made


def test_ranks_share_the_reading_and_a_finished_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_BLOCK", 3), ("_SAMPLE", 1), ("content_key", content_key)):
        monkeypatch.setattr(run_key, name, value)  # and put back at the end
    out = tmp_path / "run"
    run(CONFIG, pictures_in(photos), out=out)
    alone = known(photos, out)
    assert alone["read"] == 8
    told = on_ranks(known_on_ranks, 2, tmp_path / "ranks", photos, out)
    for one in told:
        assert all(torch.equal(one[name], value) for name, value in alone.items() if name != "read")
    assert [int(one["read"]) for one in told] == [1 + 3, 1 + 5]  # one of all is read by both
    assert not (out / "not seen from here").exists()
