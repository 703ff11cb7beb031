"""Pictures to a table of normalised features: read, view, encode, cache. Memory stays flat whatever the number of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.preprocess import View
from promptmix.data.images import PictureSource, StoredPicture, content_key
from promptmix.data.transforms import Augmentation
from promptmix.distributed.group import gather_json
from promptmix.distributed.rows import gather_table, own_share
from promptmix.errors import BackboneError, ConfigError, DataError, UnreadablePictureError
from promptmix.features.cache import FeatureCache, Key, Vector
from promptmix.features.reading import make_views, reading_threads, reads_ahead, view_names
from promptmix.features.table import new_table

__all__ = ["Extracted", "FeatureBatch", "extract_features", "iter_features"]


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """Features of some pictures that follow one another.

    Attributes:
        features: float32 on the CPU, normalised; view 0 is the test view, the others are augmented.
        kept: for each row of ``features`` the place of its picture among all pictures, from 0.
        pictures: for each row of ``features`` its picture.
        bad: the pictures that could not be read, each with the reason.
        from_cache: how many of the kept pictures came from the cache with all their views.
        done: pictures read so far, in this batch and all before it, those that could not be read too.
    """

    features: Float[Tensor, "picture view embedding"]
    kept: tuple[int, ...]
    pictures: tuple[PictureSource, ...]
    bad: tuple[tuple[str, str], ...]
    from_cache: int
    done: int


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Features of the pictures that could be read.

    Attributes:
        features: float32 on the CPU, normalised; view 0 is the test view, the others are augmented.
        kept: for each row of ``features`` the index of the given picture.
        bad: the pictures that could not be read, each with the reason.
        from_cache: how many of the kept pictures came from the cache with all their views.
    """

    features: Float[Tensor, "picture view embedding"]
    kept: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]
    from_cache: int


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A picture on its way: what the cache had, and the views that are being made by another thread."""

    index: int
    picture: PictureSource
    content: str
    problem: DataError | None
    cached: dict[str, Vector]
    missing: tuple[str, ...]
    views: Future[list[View]] | None


def extract_features(
    backbone: Backbone,
    pictures: Sequence[PictureSource],
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    skip_bad: bool = False,
    threads: int | None = None,
    steady: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """The features of ``iter_features`` in one table; one above 1 GiB lies in a temporary file beside the cache.

    Where several ranks work together each encodes a share of the batches, and all get the whole table: the one of a single rank, bit
    for bit where the batches are steady.

    Args:
        on_progress: called after each batch with the number of pictures done and of all, both in this rank's share.

    Raises:
        DataError, BackboneError, ConfigError: as ``iter_features``; and there is no room for the table.
    """
    _check_numbers(batch_size, threads)
    shape = (len(pictures), len(view_names(augmentation, seed)), backbone.config.embedding_width)
    # Shares end where batches do, so that the batches are those of one rank.
    at_once = _pictures_at_once(batch_size, augmentation, seed)
    share = own_share(math.ceil(len(pictures) / at_once))
    first, end = share.first * at_once, min((share.first + share.count) * at_once, len(pictures))
    numbered = zip(range(first, end), pictures[first:end], strict=True)
    batches = _batches(backbone, numbered, augmentation, seed, cache, batch_size, skip_bad, threads, steady)
    features = new_table(shape, None if cache is None else cache.folder)
    left_out: list[int] = []  # what is told to other ranks grows with these, not with all pictures
    bad: list[tuple[str, str]] = []
    num_kept, from_cache, place = 0, 0, first
    for batch in batches:
        features[first + num_kept : first + num_kept + len(batch.kept)] = batch.features
        left_out += sorted(set(range(place, batch.done)).difference(batch.kept))
        bad += batch.bad
        num_kept, from_cache, place = num_kept + len(batch.kept), from_cache + batch.from_cache, batch.done
        if on_progress is not None:
            on_progress(batch.done - first, end - first)
    counts, every_left_out, every_bad, every_from_cache = zip(*gather_json([num_kept, left_out, bad, from_cache]), strict=True)
    all_bad = tuple((name, reason) for one in every_bad for name, reason in one)
    _check_any(len(pictures), sum(counts), all_bad[0][1] if all_bad else "")
    table = torch.from_numpy(features)
    gather_table(table, first, counts)
    all_left_out = set(chain(*every_left_out))
    kept = tuple(place for place in range(len(pictures)) if place not in all_left_out)
    return Extracted(features=table[: sum(counts)], kept=kept, bad=all_bad, from_cache=sum(every_from_cache))


def iter_features(
    backbone: Backbone,
    pictures: Iterable[PictureSource],
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    skip_bad: bool = False,
    threads: int | None = None,
    steady: bool = False,
) -> Iterator[FeatureBatch]:
    """Features of pictures by the frozen image tower, one test view each and ``augmentation.views`` augmented ones, in batches.

    Pictures are taken as they are needed, and the views of at most two batches are in memory, so their number is not limited.
    An augmented view depends on the seed, the picture's content and the number of the view alone, so that neither order,
    batches, threads nor other pictures change it. Each batch goes into the cache as soon as it is encoded: a run that was killed
    goes on where it stopped. The cache knows a backbone by its fingerprint and precision; give none for a tower whose weights have been changed.

    Args:
        batch_size: views read and encoded together; all views of a picture are read together, though.
        skip_bad: leave out pictures that cannot be read, and list them, instead of stopping at the first.
        threads: how many read pictures; None: one a processor, up to 16.
        steady: encode ``batch_size`` views every time, made up with copies of the last one, and take from the cache only what was
            encoded so. Towers round in other ways for batches of other sizes (by about 1e-7), so that else the last bits depend on
            what the cache held before. For what is learnt from and measured on; too slow for a single picture. A small odd batch size
            gives less: on several threads the place in such a batch may count.

    Raises:
        DataError: there are no pictures, one cannot be read (without ``skip_bad``) or, known at the end, none can.
        BackboneError: the backbone has no image tower, or gives features that are not finite.
        ConfigError: ``batch_size`` or ``threads`` is below 1.
    """
    _check_numbers(batch_size, threads)
    return _all_batches(_batches(backbone, enumerate(pictures), augmentation, seed, cache, batch_size, skip_bad, threads, steady))


def _check_numbers(batch_size: int, threads: int | None) -> None:
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")


def _check_any(num_pictures: int, num_kept: int, first_problem: str) -> None:
    if num_pictures == 0:
        raise DataError("there are no pictures to encode; give at least one")
    if num_kept == 0:
        raise DataError(f"none of the {num_pictures} pictures can be read; the first: {first_problem}")


def _all_batches(batches: Iterator[FeatureBatch]) -> Iterator[FeatureBatch]:
    """The batches, of which at least one must have a picture."""
    done = num_kept = 0
    first_problem = ""
    for batch in batches:
        done, num_kept = batch.done, num_kept + len(batch.kept)
        first_problem = first_problem or (batch.bad[0][1] if batch.bad else "")
        yield batch
    _check_any(done, num_kept, first_problem)


def _pictures_at_once(batch_size: int, augmentation: Augmentation | None, seed: int) -> int:
    """How many pictures are read together, with all their views."""
    return max(1, batch_size // len(view_names(augmentation, seed)))


def _batches(
    backbone: Backbone,
    numbered: Iterable[tuple[int, PictureSource]],
    augmentation: Augmentation | None,
    seed: int,
    cache: FeatureCache | None,
    batch_size: int,
    skip_bad: bool,
    threads: int | None,
    steady: bool,
) -> Iterator[FeatureBatch]:
    """Batches of pictures that come with their places."""
    views, coming = view_names(augmentation, seed), iter(numbered)
    pictures_at_once = _pictures_at_once(batch_size, augmentation, seed)
    with reading_threads(threads) as readers:

        def start() -> list[_Pending]:
            """Look up the next pictures and let the readers make what is missing."""
            batch = list(islice(coming, pictures_at_once))
            return _started(batch, readers, backbone, augmentation, seed, cache, batch_size, steady)

        # At most one batch is read ahead while another is encoded; more would only fill the memory.
        upcoming = start()
        while upcoming:
            following = start() if reads_ahead(backbone.device) else None
            yield _finished(upcoming, views, backbone, cache, batch_size, steady, skip_bad)
            upcoming = start() if following is None else following


def _started(
    batch: Sequence[tuple[int, PictureSource]],
    readers: ThreadPoolExecutor,
    backbone: Backbone,
    augmentation: Augmentation | None,
    seed: int,
    cache: FeatureCache | None,
    batch_size: int,
    steady: bool,
) -> list[_Pending]:
    views = view_names(augmentation, seed)
    contents: list[str | DataError] = [""] * len(batch)
    if cache is not None or augmentation is not None:  # else nothing depends on the content
        contents = list(readers.map(_content_or_problem, [picture for _, picture in batch]))
    stored: dict[Key, Vector] = {}
    if cache is not None:
        known = [content for content in contents if isinstance(content, str)]
        # A steady vector serves everybody, another one only those who did not ask for it.
        for steadily in (True,) if steady else (False, True):
            rows = {(content, name): (content, _row_name(name, batch_size, steadily)) for content in known for name in views}
            found = cache.get_many(backbone.features_key, rows.values())
            stored |= {key: found[row] for key, row in rows.items() if row in found}
    width = backbone.config.embedding_width
    pending: list[_Pending] = []
    for (index, picture), content in zip(batch, contents, strict=True):
        if isinstance(content, DataError):
            nothing = _Pending(index=index, picture=picture, content="", problem=content, cached={}, missing=(), views=None)
            pending.append(nothing)
            continue
        cached = {name: stored[content, name] for name in views if _usable(stored.get((content, name)), width)}
        missing = tuple(name for name in views if name not in cached)
        numbers = tuple(views[name] for name in missing)
        work = (picture, content, numbers, augmentation, seed, backbone.config.preprocess)
        pending.append(
            _Pending(
                index=index,
                picture=picture,
                content=content,
                problem=None,
                cached=cached,
                missing=missing,
                views=readers.submit(make_views, *work) if missing else None,
            )
        )
    return pending


def _finished(
    pending: Sequence[_Pending],
    views: dict[str, int],
    backbone: Backbone,
    cache: FeatureCache | None,
    batch_size: int,
    steady: bool,
    skip_bad: bool,
) -> FeatureBatch:
    """Encode what the readers have made and store it."""
    features = np.empty((len(pending), len(views), backbone.config.embedding_width), np.float32)
    kept: list[_Pending] = []
    bad: list[tuple[str, str]] = []
    pixels: list[View] = []
    places: list[tuple[int, int, Key]] = []  # for each of the pixels its row, its view and its key in the cache
    for one in pending:
        made = _made_or_problem(one)
        if isinstance(made, DataError):
            # The reason names a file; of pictures in memory only the place in the list tells which one it is.
            named = isinstance(one.picture, str | Path | StoredPicture)
            name, reason = (str(one.picture), str(made)) if named else _in_memory(one.index, made)
            if not skip_bad:
                raise UnreadablePictureError(reason) from made
            bad.append((name, reason))
            continue
        row = len(kept)
        kept.append(one)
        for name, vector in one.cached.items():
            features[row, views[name]] = vector
        for name, view in zip(one.missing, made, strict=True):
            pixels.append(view)
            places.append((row, views[name], (one.content, _row_name(name, batch_size, steady))))
    for first in range(0, len(pixels), batch_size):
        shown = pixels[first : first + batch_size]
        padding = [shown[-1]] * (batch_size - len(shown)) if steady else []
        encoded = _encode(backbone, [*shown, *padding])[: len(shown)]
        encoded_places = places[first : first + batch_size]
        for (row, view_number, _), vector in zip(encoded_places, encoded, strict=True):
            features[row, view_number] = vector
        if cache is not None:
            keys = [key for _, _, key in encoded_places]
            cache.put_many(backbone.features_key, dict(zip(keys, encoded, strict=True)))
    return FeatureBatch(
        features=torch.from_numpy(features[: len(kept)]),
        kept=tuple(one.index for one in kept),
        pictures=tuple(one.picture for one in kept),
        bad=tuple(bad),
        from_cache=sum(not one.missing for one in kept),
        done=pending[-1].index + 1,
    )


def _content_or_problem(picture: PictureSource) -> str | DataError:
    try:
        return content_key(picture)
    except DataError as problem:
        return problem


def _made_or_problem(pending: _Pending) -> list[View] | DataError:
    if pending.problem is not None or pending.views is None:
        return pending.problem or []
    try:
        return pending.views.result()
    except DataError as problem:
        return problem


def _usable(vector: Vector | None, width: int) -> bool:
    return vector is not None and len(vector) == width and bool(np.isfinite(vector).all())


def _row_name(view: str, batch_size: int, steady: bool) -> str:
    """A view's name in the cache. Vectors of steady batches have names of their own: others may differ from them in the last bits."""
    return f"{view} in steady batches of {batch_size}" if steady else view


def _encode(backbone: Backbone, pixels: Sequence[View]) -> Float32[np.ndarray, "picture embedding"]:
    with torch.inference_mode():
        encoded = backbone.encode_pixels(torch.from_numpy(np.stack(pixels))).float().cpu().numpy()
    if not np.isfinite(encoded).all():
        raise BackboneError(f"backbone {backbone.name} gave features that are not finite; try --precision fp32")
    return encoded


def _in_memory(index: int, problem: DataError) -> tuple[str, str]:
    return f"picture {index}", f"picture {index}: {problem}"
