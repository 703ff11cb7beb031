"""Feeds: every picture once an epoch, in an order and in views that the seed says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.transforms import Augmentation
from promptmix.features.extract import extract_features
from promptmix.methods.registry import build_method
from promptmix.training.feeds import CachedFeed, LiveFeed

PICTURES, VIEWS = 12, 4


def table() -> Tensor:
    """Features that say which picture and which view they are of."""
    places = torch.arange(PICTURES)[:, None].expand(-1, VIEWS)
    views = torch.arange(VIEWS)[None].expand(PICTURES, -1)
    return torch.stack([places, views], dim=-1).float()


def epoch(seed: int, number: int, first_step: int = 0) -> list[tuple[int, int]]:
    feed = CachedFeed(table(), torch.arange(PICTURES), seed)
    batches = list(feed.batches(number, 4, first_step))
    for batch in batches:
        assert batch.image_features[:, 0].long().tolist() == batch.labels.tolist()
    return [(int(row[0]), int(row[1])) for batch in batches for row in batch.image_features]


def test_every_picture_comes_once_an_epoch_in_some_view() -> None:
    seen = [pair for number in range(30) for pair in epoch(1, number)]
    assert sorted(place for place, _ in epoch(1, 0)) == list(range(PICTURES))
    counts = [sum(view == wanted for _, view in seen) for wanted in range(VIEWS)]
    assert min(counts) > 0.15 * len(seen)  # a quarter each, by lot


def test_the_seed_and_the_epoch_say_it_all() -> None:
    assert epoch(1, 3) == epoch(1, 3)
    assert epoch(1, 3) != epoch(1, 4)
    assert epoch(1, 3) != epoch(2, 3)
    assert epoch(1, 3, first_step=1) == epoch(1, 3)[4:]  # as a resumed run begins


@pytest.mark.parametrize(("views", "all_plain"), [(0, True), (4, False)])
def test_a_live_feed_shows_the_test_view_as_often_as_a_cached_one(views: int, all_plain: bool) -> None:
    backbone = load_backbone("bundled", device="cpu")
    pictures = [one.image for one in draw_set(("anchor", "cat"), ("photo",), 8, 1)]
    plain = extract_features(backbone, pictures).features[:, 0]
    method = build_method("zero-shot", {}, backbone, ("anchor", "cat"))
    feed = LiveFeed(method, backbone, pictures, torch.arange(16), Augmentation(views=views), 1)
    with torch.no_grad():
        is_plain = [
            bool(torch.allclose(feature, plain[label], atol=1e-4))
            for batch in feed.batches(0, 8, 0)
            for feature, label in zip(batch.image_features, batch.labels, strict=True)
        ]
    assert len(is_plain) == 16
    assert all(is_plain) == all_plain
    assert any(is_plain)


def test_a_last_batch_that_is_not_full_is_left_out() -> None:
    feed = CachedFeed(table()[:10], torch.arange(10), 1)
    assert [len(batch.labels) for batch in feed.batches(0, 4, 0)] == [4, 4]
    assert [len(batch.labels) for batch in feed.batches(0, 32, 0)] == [10]  # unless it is the only one
