"""Extraction that is shared by several ranks gives the table of one, bit for bit, and each bad picture once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.many_ranks import on_ranks
from torch import Tensor

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.transforms import Augmentation
from promptmix.errors import DataError
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features

BAD = (0, 3, 4, 9)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for number, drawn in enumerate(draw_set(("anchor", "cat"), ("stamp", "neon"), 3, 1)):
        paths.append(folder / f"{number:02}.png")
        drawn.image.save(paths[-1])
        if number in BAD:
            paths[-1].write_bytes(b"no picture")
    return paths


def extracted(photos: list[Path], cache_folder: Path | None) -> dict[str, Tensor]:
    """Several tables of features of the pictures, with what was said of them."""
    backbone = load_backbone("bundled", device="cpu")
    made: dict[str, Tensor] = {}
    for name, augmentation, batch_size in (("views", Augmentation(views=2), 6), ("plain", None, 2), ("one batch", None, 64)):
        cache = None if cache_folder is None else FeatureCache(cache_folder)
        told: list[tuple[int, int]] = []
        got = extract_features(
            backbone,
            photos,
            augmentation=augmentation,
            cache=cache,
            batch_size=batch_size,
            skip_bad=True,
            steady=True,
            on_progress=lambda done, total, told=told: told.append((done, total)),
        )
        assert [Path(path).name for path, _ in got.bad] == [f"{number:02}.png" for number in BAD]
        assert not told or told[-1][0] == told[-1][1]
        made |= {f"{name} features": got.features, f"{name} kept": torch.tensor(got.kept)}
        made[f"{name} from the cache"] = torch.tensor(got.from_cache)
    with pytest.raises(DataError, match="none of the 2 pictures can be read"):
        extract_features(backbone, [photos[3], photos[4]], skip_bad=True, batch_size=1)
    with pytest.raises(DataError, match="no pictures to encode"):
        extract_features(backbone, [])
    return made


def test_two_ranks_extract_what_one_does(photos: list[Path], tmp_path: Path) -> None:
    alone = extracted(photos, None)
    assert alone["views kept"].tolist() == [place for place in range(len(photos)) if place not in BAD]
    for said in on_ranks(extracted, 2, tmp_path / "ranks", photos, tmp_path / "cache"):
        assert all(torch.equal(said[name], alone[name]) for name in alone)
    # What both have put into the cache is found by one.
    again = extracted(photos, tmp_path / "cache")
    assert [int(again[f"{name} from the cache"]) for name in ("views", "plain", "one batch")] == [len(photos) - len(BAD)] * 3
    assert torch.equal(again["views features"], alone["views features"])
