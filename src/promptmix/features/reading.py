"""From a picture to the views of it that the image tower is shown, in several threads.

Threads, not processes: decoding, resizing and the tower all let go of Python's lock while they work, so that threads are as fast, share
the pictures that are in memory already, and leave no process behind that could be killed on its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import View, resize_and_crop, resize_part
from promptmix.data.images import PictureSource, open_picture
from promptmix.data.transforms import Augmentation, augmented_view
from promptmix.distributed.group import num_ranks_here
from promptmix.runtime import numpy_generator

__all__ = ["augmented", "make_views", "reading_threads", "reads_ahead", "view_names"]

_TEST_VIEW = "test"
_MOST_THREADS = 16  # each may hold a whole decoded picture


@contextlib.contextmanager
def reading_threads(number: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that read pictures, one for each processor that is this process's; what they have not begun at the end is dropped."""
    if number is None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        number = min(_MOST_THREADS, max(1, processors // num_ranks_here()))
    threads = ThreadPoolExecutor(max_workers=number, thread_name_prefix="promptmix-pictures")
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def reads_ahead(device: torch.device) -> bool:
    """Whether the next pictures are read while the tower works on these.

    Not where the tower runs on the same processors: nothing can be gained, and each of its many short steps would wait for whichever
    of its threads a reader has pushed aside. One after the other, both have all processors.
    """
    return device.type != "cpu"


def view_names(augmentation: Augmentation | None, seed: int) -> dict[str, int]:
    """The name of each view in the cache, with its number; a name says all that the view depends on besides the picture."""
    names = {_TEST_VIEW: 0}
    if augmentation is not None:
        made = f"augmented min_scale={augmentation.min_scale!r} flip={augmentation.flip!r} seed={seed}"
        names |= {f"{made} view={number}": number for number in range(1, augmentation.views + 1)}
    return names


def make_views(
    picture: PictureSource,
    content: str,
    numbers: tuple[int, ...],
    augmentation: Augmentation | None,
    seed: int,
    preprocess: PreprocessConfig,
) -> list[View]:
    """Views of a picture by their numbers: 0 is the test view, the others are augmented.

    Args:
        content: the picture's content key; augmented views depend on it.

    Raises:
        DataError: the picture cannot be read.
    """
    image = open_picture(picture)
    made: list[View] = []
    for number in numbers:
        if augmentation is None or number == 0:
            made.append(resize_and_crop(image, preprocess))
        else:
            generator = numpy_generator(seed, f"augmented view {number} of {content}")
            made.append(augmented(image, augmentation, generator, preprocess))
    return made


def augmented(
    image: Image.Image, augmentation: Augmentation, generator: np.random.Generator, preprocess: PreprocessConfig
) -> View:
    """One augmented view of an RGB picture, resized as the backbone's pre-processing does."""
    resize = functools.partial(resize_part, interpolation=Image.Resampling[preprocess.interpolation.upper()])
    return augmented_view(image, preprocess.crop, augmentation, generator, resize)
