"""Few-shot tasks drawn from the bundled world: which classes, which pictures to learn from, which to measure on.

The classes are dealt in blocks of twenty base and twenty new ones: those of the demo, those that recipes are chosen on, and the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptmix.data import pictograms
from promptmix.data.pictograms import DrawnPicture
from promptmix.data.records import LabelledPictures
from promptmix.runtime import numpy_generator

__all__ = ["NUM_CLASSES", "TEST_PICTURES", "block_of_classes", "draw_shots", "draw_tests", "labelled"]

NUM_CLASSES = 20  # base classes, and as many new ones
TEST_PICTURES = 10  # of each class and style


def block_of_classes(block: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base and new classes: of the demo (block 0), of the choice of its recipes (1), or of neither (2)."""
    order = numpy_generator(0, "demo classes").permutation(len(pictograms.CLASS_NAMES))
    first = 2 * NUM_CLASSES * block
    names = [pictograms.CLASS_NAMES[index] for index in order[first : first + 2 * NUM_CLASSES]]
    return tuple(names[:NUM_CLASSES]), tuple(names[NUM_CLASSES:])


def draw_shots(class_names: tuple[str, ...], styles: tuple[str, ...], shots: int, seed: int) -> list[DrawnPicture]:
    """``shots`` pictures of every class, dealt over the styles as evenly as can be, class by class.

    Sets of one seed are nested: that of 1 shot lies inside that of 2 shots.
    """
    count = len(styles)
    drawn = pictograms.draw_set(class_names, styles, -(-shots // count), 1000 + seed)
    per_style = len(drawn) // (len(class_names) * count)
    # Where the styles cannot have equally many, every class begins with another one.
    turns = [
        (number, (style - row - seed) % count)
        for row in range(len(class_names))
        for style in range(count)
        for number in range(per_style)
    ]
    return [one for one, (number, turn) in zip(drawn, turns, strict=True) if number * count + turn < shots]


def draw_tests(class_names: tuple[str, ...], styles: tuple[str, ...], per_style: int = TEST_PICTURES) -> list[DrawnPicture]:
    """The test pictures: the same for every seed, and none of them ever one to learn from."""
    return pictograms.draw_set(class_names, styles, per_style, 100)


def labelled(pictures: Sequence[DrawnPicture], class_names: tuple[str, ...], what: str) -> LabelledPictures:
    """Drawn pictures to learn from or to measure on; ``what`` says which classes these are ("base classes")."""
    styles = ", ".join(dict.fromkeys(one.style for one in pictures))
    return LabelledPictures(
        pictures=[one.image for one in pictures],
        labels=[class_names.index(one.class_name) for one in pictures],
        class_names=class_names,
        description=f"{len(pictures)} drawn pictures of {len(class_names)} {what} in the styles {styles}",
    )
