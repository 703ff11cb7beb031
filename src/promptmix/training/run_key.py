"""What a run depends on, as one hash: a folder is gone on with by a run of the same key alone."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from promptmix.backbones.base import Backbone
from promptmix.data.images import PictureSource, StoredPicture, content_key, file_state
from promptmix.data.records import LabelledPictures
from promptmix.distributed.group import check_same, gather_json, num_ranks
from promptmix.distributed.rows import own_share
from promptmix.errors import DataError
from promptmix.methods.base import Recipe
from promptmix.runtime import short_hash

if TYPE_CHECKING:
    from promptmix.training.fit import RunConfig

__all__ = ["shared_run_key"]

_BLOCK = 64  # pictures with a hash of their own
_SAMPLE = 64  # pictures, at most, that every rank reads


def shared_run_key(
    config: RunConfig,
    recipe: Recipe,
    stands_for: str,
    backbone: Backbone,
    training: LabelledPictures,
    measured: LabelledPictures,
    more_class_names: Sequence[str],
) -> str:
    """Hash of all that the trained parameters and the measured numbers depend on: the same on any number of ranks.

    Each rank reads a share of the pictures, and a few of all.

    Args:
        stands_for: what the method's options mean, beyond their text.

    Raises:
        ConfigError: the ranks do not see the same pictures, or differ in something else.
        LostRankError: another rank is gone.
    """
    wanted = config.model_dump(mode="json", exclude={"device", "precision", "backbone", "skip_bad", "log_to", "max_memory"})
    parts = [json.dumps(wanted, sort_keys=True), recipe.model_dump_json(), stands_for, backbone.features_key]
    parts += [json.dumps(list(names)) for names in (training.class_names, more_class_names)]
    for part in (training,) if measured is training else (training, measured):
        labels = [str(label) for _, label in zip(part.pictures, part.labels, strict=True)]
        parts += [f"{len(labels)} pictures", " ".join(labels), *_block_hashes(part.pictures)]
    key = short_hash(*parts)
    check_same(key, "options, pictures or backbone")
    # What is learnt does not depend on these, but the ranks wait for each other where they plan the memory, or leave pictures out.
    check_same(f"{config.max_memory} {config.skip_bad}", "--max-memory or --skip-bad")
    return key


def _block_hashes(pictures: Sequence[PictureSource]) -> list[str]:
    """One for each block of pictures, so that what ranks tell each other is short."""
    if num_ranks() > 1:
        check_same(_known_of(pictures), "pictures")
    share = own_share(math.ceil(len(pictures) / _BLOCK))
    firsts = range(share.first * _BLOCK, (share.first + share.count) * _BLOCK, _BLOCK)
    own = [short_hash(*map(_content, pictures[first : first + _BLOCK])) for first in firsts]
    return list(itertools.chain(*gather_json(own)))


def _content(picture: PictureSource) -> str:
    try:
        return content_key(picture)
    except DataError:
        return "unreadable"  # extraction says what is wrong with it


def _known_of(pictures: Sequence[PictureSource]) -> str:
    """Hash of what is known of pictures without reading more than a few of them."""
    sample = pictures[:: max(1, math.ceil(len(pictures) / _SAMPLE))]
    return short_hash(*map(_name_and_size, pictures), *map(_content, sample))


def _name_and_size(picture: PictureSource) -> str:
    if isinstance(picture, StoredPicture):
        return str(picture)
    if not isinstance(picture, str | Path):
        return "in memory"
    try:
        return f"{Path(picture).name} {file_state(Path(picture))[1]}"
    except (DataError, ValueError):  # a zero byte in the path
        return "unreadable"
