"""Pictures to a table of normalised features: read, view, encode, cache. Memory stays flat whatever the number of pictures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.data.images import PictureSource, content_key, open_picture
from promptmix.data.transforms import Augmentation, augmented_view
from promptmix.errors import BackboneError, ConfigError, DataError
from promptmix.features.cache import FeatureCache, Key, Vector
from promptmix.runtime import numpy_generator

__all__ = ["Extracted", "extract_features"]

_TEST_VIEW = "test"
_MOST_READERS = 4


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
    content: str
    problem: DataError | None
    cached: dict[str, Vector]
    missing: tuple[str, ...]
    views: Future[list[UInt8[np.ndarray, "crop crop 3"]] | DataError] | None


def extract_features(
    backbone: Backbone,
    pictures: Sequence[PictureSource],
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    skip_bad: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """Features of pictures by the frozen image tower, one test view each and ``augmentation.views`` augmented ones.

    An augmented view depends on the seed, the picture's content and the number of the view alone, so that neither order,
    batches nor other pictures change it. Each batch goes into the cache as soon as it is encoded: a run that was killed goes on
    where it stopped. The cache knows a backbone by its fingerprint; give none for a tower whose weights have been changed.

    Args:
        batch_size: pictures read together, and views encoded together.
        skip_bad: leave out pictures that cannot be read, and list them, instead of stopping at the first.
        on_progress: called after each batch with the number of pictures done and of all.

    Raises:
        DataError: there are no pictures, one cannot be read (without ``skip_bad``) or none can.
        BackboneError: the backbone has no image tower, or gives features that are not finite.
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    if len(pictures) == 0:
        raise DataError("there are no pictures to encode; give at least one")
    views = _view_names(augmentation, seed)
    features = np.empty((len(pictures), len(views), backbone.config.embedding_width), np.float32)
    kept: list[int] = []
    bad: list[tuple[str, str]] = []
    from_cache = 0

    readers = ThreadPoolExecutor(max_workers=min(_MOST_READERS, os.cpu_count() or 1), thread_name_prefix="promptmix-pictures")

    def start(first: int) -> list[_Pending]:
        """Look up a batch and let the readers make what is missing."""
        batch = range(first, min(first + batch_size, len(pictures)))
        contents = list(readers.map(_content_or_problem, [pictures[index] for index in batch]))
        keys = [(content, name) for content in contents if isinstance(content, str) for name in views]
        stored = {} if cache is None else cache.get_many(backbone.fingerprint, keys)
        pending: list[_Pending] = []
        for index, content in zip(batch, contents, strict=True):
            if isinstance(content, DataError):
                pending.append(_Pending(index=index, content="", problem=content, cached={}, missing=(), views=None))
                continue
            cached = {name: stored[content, name] for name in views if _usable(stored.get((content, name)), features.shape[2])}
            missing = tuple(name for name in views if name not in cached)
            work = (pictures[index], content, missing, augmentation, seed, backbone.config.preprocess)
            job = readers.submit(_make_views, *work) if missing else None
            pending.append(_Pending(index=index, content=content, problem=None, cached=cached, missing=missing, views=job))
        return pending

    try:
        # One batch is read ahead while another is encoded; more would only fill the memory.
        starts = deque(range(0, len(pictures), batch_size))
        upcoming = start(starts.popleft())
        while upcoming:
            current, upcoming = upcoming, start(starts.popleft()) if starts else []
            pixels: list[UInt8[np.ndarray, "crop crop 3"]] = []
            places: list[tuple[int, int, Key]] = []  # for each of the pixels its picture, its view and its key in the cache
            for picture in current:
                made = picture.problem or (picture.views.result() if picture.views is not None else [])
                if isinstance(made, DataError):
                    source = pictures[picture.index]
                    # The reason names a file; of pictures in memory only the place in the list tells which one it is.
                    name, reason = (str(source), str(made)) if isinstance(source, str | Path) else _in_memory(picture.index, made)
                    if not skip_bad:
                        raise DataError(f"{reason}; pass --skip-bad to leave such pictures out") from made
                    bad.append((name, reason))
                    continue
                kept.append(picture.index)
                from_cache += not picture.missing
                for name, vector in picture.cached.items():
                    features[picture.index, views[name]] = vector
                for name, view in zip(picture.missing, made, strict=True):
                    pixels.append(view)
                    places.append((picture.index, views[name], (picture.content, name)))
            for first in range(0, len(pixels), batch_size):
                encoded = _encode(backbone, pixels[first : first + batch_size])
                encoded_places = places[first : first + batch_size]
                for (index, view_number, _), vector in zip(encoded_places, encoded, strict=True):
                    features[index, view_number] = vector
                if cache is not None:
                    keys = [key for _, _, key in encoded_places]
                    cache.put_many(backbone.fingerprint, dict(zip(keys, encoded, strict=True)))
            if on_progress is not None:
                on_progress(current[-1].index + 1, len(pictures))
    finally:
        readers.shutdown(wait=True, cancel_futures=True)

    if not kept:
        raise DataError(f"none of the {len(pictures)} pictures can be read; the first: {bad[0][1]}")
    if bad:
        features = features[kept]
    return Extracted(features=torch.from_numpy(features), kept=tuple(kept), bad=tuple(bad), from_cache=from_cache)


def _view_names(augmentation: Augmentation | None, seed: int) -> dict[str, int]:
    """The name of each view in the cache, with its number; a name says all that the view depends on besides the picture."""
    names = {_TEST_VIEW: 0}
    if augmentation is not None:
        made = f"augmented min_scale={augmentation.min_scale!r} flip={augmentation.flip!r} seed={seed}"
        names |= {f"{made} view={number}": number for number in range(1, augmentation.views + 1)}
    return names


def _content_or_problem(picture: PictureSource) -> str | DataError:
    try:
        return content_key(picture)
    except DataError as problem:
        return problem


def _make_views(
    picture: PictureSource,
    content: str,
    names: tuple[str, ...],
    augmentation: Augmentation | None,
    seed: int,
    preprocess: PreprocessConfig,
) -> list[UInt8[np.ndarray, "crop crop 3"]] | DataError:
    try:
        image = open_picture(picture)
    except DataError as problem:
        return problem
    numbers = _view_names(augmentation, seed)
    made: list[UInt8[np.ndarray, "crop crop 3"]] = []
    for name in names:
        if augmentation is None or name == _TEST_VIEW:
            made.append(resize_and_crop(image, preprocess))
        else:
            generator = numpy_generator(seed, f"augmented view {numbers[name]} of {content}")
            made.append(augmented_view(image, preprocess.crop, augmentation, generator))
    return made


def _usable(vector: Vector | None, width: int) -> bool:
    return vector is not None and len(vector) == width and bool(np.isfinite(vector).all())


def _encode(backbone: Backbone, pixels: Sequence[UInt8[np.ndarray, "crop crop 3"]]) -> Float32[np.ndarray, "picture embedding"]:
    with torch.inference_mode():
        encoded = backbone.encode_pixels(torch.from_numpy(np.stack(pixels))).float().cpu().numpy()
    if not np.isfinite(encoded).all():
        raise BackboneError(f"backbone {backbone.name} gave features that are not finite; try --precision float32")
    return encoded


def _in_memory(index: int, problem: DataError) -> tuple[str, str]:
    return f"picture {index}", f"picture {index}: {problem}"
