"""What a protocol learns from and measures on, behind one face: the bundled world, a person's own pictures, a benchmark."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from promptmix.config import StrictModel
from promptmix.data.benchmarks import benchmark_named, read_benchmark
from promptmix.data.drawn_task import block_of_classes, draw_shots, draw_tests, labelled
from promptmix.data.images import PictureSource, content_key
from promptmix.data.pictograms import PRETRAINING_STYLES, UNSEEN_STYLES
from promptmix.data.read import part_to_measure, read_parts
from promptmix.data.records import LabelledPictures, PictureSet
from promptmix.data.sampling import base_new_split, sample_shots, sample_shots_as_published
from promptmix.errors import ConfigError, DataError, did_you_mean, printable
from promptmix.runtime import numpy_generator, short_hash

__all__ = ["PICTOGRAMS", "USUAL_TEMPLATE", "DataSource", "DataSpec", "classes_of", "only_classes", "open_data", "spec_of"]

PICTOGRAMS = "pictograms"
USUAL_TEMPLATE = "a photo of a {}."


class DataSpec(StrictModel):
    """Where pictures come from, in words that a plan can hold.

    Attributes:
        source: ``pictograms`` or ``pictograms:VARIANT``; the name of a benchmark; or a path or name that ``promptmix train`` takes.
        root: the folder that holds the benchmarks' folders; the source is the name of a benchmark exactly where it is given.
        hold_out: share of each class to measure on where the source has no test part, drawn anew for each seed.
        only_measured: nothing is learnt from it, so that without a test part all its pictures are measured on.
    """

    source: str
    root: str | None = None
    hold_out: float | None = Field(default=None, gt=0, lt=1)
    only_measured: bool = False


class DataSource(abc.ABC):
    """Pictures to learn from, and pictures to measure on, which nobody asks for before everything is learnt.

    Attributes:
        name: short, for tables and folders.
        class_names: all classes in their order; the first half are the base classes.
        template: picked by hand for these pictures; None where there is none.
        notes: what must stand beside every number that comes of these pictures.
        listing: hash of the classes and of the names and labels of all pictures; no picture is opened for it.
        tests_vary: whether the test pictures are others for every seed.
        num_training: how many pictures there are to learn from, before shots are drawn; None: as many as are asked for.
        test_counts: how many there are to measure on (for one seed), by class.
    """

    name: str
    class_names: tuple[str, ...]
    template: str | None
    notes: tuple[str, ...]
    listing: str
    tests_vary: bool
    num_training: int | None
    test_counts: tuple[int, ...]

    @property
    def num_test(self) -> int:
        """How many pictures there are to measure on (for one seed)."""
        return sum(self.test_counts)

    @abc.abstractmethod
    def training(self, shots: int | None, seed: int) -> LabelledPictures:
        """Pictures to learn from: ``shots`` of each class, fewer where a class has fewer; None: all of them."""

    @abc.abstractmethod
    def test(self, seed: int) -> LabelledPictures:
        """Pictures to measure on; ``seed`` matters where some are held out of those to learn from."""

    @abc.abstractmethod
    def known_as(self, picture: PictureSource) -> str:
        """What a picture is called in hashes of splits, the same on every machine."""


@functools.lru_cache(maxsize=64)
def open_data(spec: DataSpec) -> DataSource:
    """List the pictures of a source; none is opened.

    Raises:
        ConfigError: there is no such benchmark or variant, or pictures must be held out and it was not said how many.
        DataError: the source is missing or cannot be used.
    """
    if spec.root is not None:
        return BenchmarkPictures(spec.source, Path(spec.root))
    if _is_pictograms(spec.source):
        return Pictograms(spec.source)
    return MeasuredPictures(spec.source) if spec.only_measured else OwnPictures(spec.source, spec.hold_out)


def spec_of(source: str, root: str | None, hold_out: float | None, only_measured: bool) -> DataSpec:
    """What a person means by a source. With a ``root``, the name of a benchmark is that benchmark.

    Raises:
        ConfigError: it is empty, or the name of a benchmark, and nobody said where benchmarks lie.
    """
    if not source.strip():
        raise ConfigError("a data set's name is empty; give a folder, an archive, a benchmark or 'pictograms'")
    if _is_pictograms(source):
        return DataSpec(source=source, only_measured=only_measured)
    there = Path(source).expanduser().exists()
    try:
        name = benchmark_named(source).name
    except ConfigError:
        if root is not None and not there and "/" not in source:
            raise
        return DataSpec(source=source, hold_out=None if only_measured else hold_out, only_measured=only_measured)
    if root is not None:
        return DataSpec(source=name, root=root, only_measured=only_measured)
    if not there:
        raise ConfigError(f"{source} is a benchmark of the field; say with --root which folder holds the benchmarks' folders")
    return DataSpec(source=source, hold_out=None if only_measured else hold_out, only_measured=only_measured)


class Pictograms(DataSource):
    """The bundled world, drawn as it is needed.

    ``pictograms`` has the 40 classes of the demo in the styles that the bundled backbone has not seen; ``pictograms:validation`` 40
    others, on which recipes may be chosen, ``pictograms:others`` the rest. ``pictograms:seen`` has the demo's classes in the styles
    of the pretraining, ``pictograms:STYLE`` in that one style.
    """

    template = None
    notes = ()
    tests_vary = False
    num_training = None

    def __init__(self, source: str) -> None:
        variant = source.partition(":")[2]
        blocks = {"": 0, "validation": 1, "others": 2}
        known = [*filter(None, blocks), "seen", *UNSEEN_STYLES]
        if variant not in blocks and variant not in known:
            raise ConfigError(f"--data {source}: the bundled world has no variant {variant!r}{did_you_mean(variant, known)}")
        self.name = source
        base, new = block_of_classes(blocks.get(variant, 0))
        self.class_names = base + new
        self._styles: tuple[str, ...] = UNSEEN_STYLES
        if variant == "seen":
            self._styles = PRETRAINING_STYLES
        elif variant in UNSEEN_STYLES:
            self._styles = (variant,)
        self._per_style = 2 if variant == "seen" else 10
        self.listing = short_hash(*self.class_names, "styles", *self._styles)
        self.test_counts = (len(self._styles) * self._per_style,) * len(self.class_names)

    def training(self, shots: int | None, seed: int) -> LabelledPictures:
        if shots is None:
            raise ConfigError("the bundled world has no end of pictures; say with --shots how many of each class to draw")
        return labelled(draw_shots(self.class_names, self._styles, shots, seed), self.class_names, "classes")

    def test(self, seed: int) -> LabelledPictures:
        return labelled(draw_tests(self.class_names, self._styles, self._per_style), self.class_names, "classes")

    def known_as(self, picture: PictureSource) -> str:
        return content_key(picture)


class OwnPictures(DataSource):
    """Any source that ``promptmix train`` takes; shots are nested. Without a test part some pictures of each class are held out."""

    template = None

    def __init__(self, source: str, hold_out: float | None) -> None:
        self.name = _name_of(source)
        parts = read_parts(source)
        if "train" not in parts:
            raise DataError(f"{source} has no train part to learn from; it has {', '.join(parts)}")
        self._train = parts["train"]
        self.tests_vary = "test" not in parts
        if self.tests_vary and hold_out is None:
            raise ConfigError(
                f"{source} has no test part; say with --hold-out which share of each class to measure on, such as 0.3"
            )
        self._test = None if self.tests_vary else parts[part_to_measure(parts, "test", source)]
        self._hold_out = hold_out or 0.0
        self._source = printable(source)
        self.class_names = self._train.class_names
        self.notes = ()
        if "val" in parts:
            self.notes = (f"the val part of {self._source} ({len(parts['val'])} pictures) was not used",)
        self.listing = _listing_of(parts)
        held_out = tuple(_num_held_out(count, self._hold_out) for count in self._train.counts())
        self.test_counts = held_out if self._test is None else self._test.counts()
        self.num_training = len(self._train) - (sum(held_out) if self._test is None else 0)

    def training(self, shots: int | None, seed: int) -> LabelledPictures:
        pictures = self._train if self._test is not None else self._dealt(seed)[0]
        chosen = pictures if shots is None else sample_shots(pictures, shots, seed).pictures
        return LabelledPictures.of(chosen, f"{len(chosen)} pictures of {self._source}")

    def test(self, seed: int) -> LabelledPictures:
        if self._test is not None:
            return LabelledPictures.of(self._test, f"the test part of {self._source} ({len(self._test)} pictures)")
        held_out = self._dealt(seed)[1]
        return LabelledPictures.of(held_out, f"{len(held_out)} pictures of {self._source}, held out by seed {seed}")

    def known_as(self, picture: PictureSource) -> str:
        return _name_below(self._train.root, picture)

    def _dealt(self, seed: int) -> tuple[PictureSet, PictureSet]:
        """Pictures to learn from and pictures held out, class by class, each in its order."""
        held_out: set[int] = set()
        for label, name in enumerate(self.class_names):
            places = [place for place, own in enumerate(self._train.labels) if own == label]
            numpy_generator(seed, f"held-out pictures of {name}").shuffle(places)
            held_out.update(places[: _num_held_out(len(places), self._hold_out)])
        sides = [[place for place in range(len(self._train)) if (place in held_out) == side] for side in (False, True)]
        return self._train.subset(sides[0]), self._train.subset(sides[1])


class MeasuredPictures(DataSource):
    """Any source that ``promptmix train`` takes, to measure on: its test part, or all of it where it is not split."""

    template = None
    notes = ()
    tests_vary = False
    num_training = 0

    def __init__(self, source: str) -> None:
        self.name = _name_of(source)
        parts = read_parts(source)
        self._part = part_to_measure(parts, None, source)
        self._test, self._source = parts[self._part], printable(source)
        self.class_names = self._test.class_names
        self.listing = _listing_of({self._part: self._test})
        self.test_counts = self._test.counts()

    def training(self, shots: int | None, seed: int) -> LabelledPictures:
        raise DataError(f"{self._source} is only measured on here; learn from another data set")

    def test(self, seed: int) -> LabelledPictures:
        return LabelledPictures.of(self._test, f"{len(self._test)} pictures of {self._source}")

    def known_as(self, picture: PictureSource) -> str:
        return _name_below(self._test.root, picture)


class BenchmarkPictures(DataSource):
    """A data set of the field: its official split, its template, and the shots that the published code draws."""

    tests_vary = False

    def __init__(self, name: str, root: Path) -> None:
        read = read_benchmark(name, root)
        self.name, self.notes, self._parts = read.benchmark.name, read.notes, read.parts
        self.template = None if read.benchmark.template == USUAL_TEMPLATE else read.benchmark.template
        first = next(iter(read.parts.values()))
        self._root, self.class_names = first.root, first.class_names
        self.listing = _listing_of(read.parts)
        self.num_training = len(read.parts["train"]) if "train" in read.parts else 0
        self.test_counts = read.parts["test"].counts()

    def training(self, shots: int | None, seed: int) -> LabelledPictures:
        if "train" not in self._parts:
            raise DataError(f"{self.name} has no pictures to learn from, only some to measure on; learn from another data set")
        pictures = self._parts["train"]
        chosen = pictures if shots is None else sample_shots_as_published(pictures, shots, seed).pictures
        return LabelledPictures.of(chosen, f"{len(chosen)} pictures of {self.name}")

    def test(self, seed: int) -> LabelledPictures:
        return LabelledPictures.of(self._parts["test"], f"the test part of {self.name} ({len(self._parts['test'])} pictures)")

    def known_as(self, picture: PictureSource) -> str:
        return _name_below(self._root, picture)


def classes_of(source: DataSource, which: str) -> tuple[int, ...]:
    """The places of ``all`` classes of a source, of its ``base`` classes or of its ``new`` ones."""
    if which == "all":
        return tuple(range(len(source.class_names)))
    base, new = base_new_split(len(source.class_names))
    return tuple(base if which == "base" else new)


def only_classes(pictures: LabelledPictures, places: Sequence[int], what: str) -> LabelledPictures:
    """The pictures of some classes, which are numbered 0, 1, ... in the given order; ``what`` names them ("base")."""
    if len(places) == len(pictures.class_names):
        return pictures
    labels = {place: label for label, place in enumerate(places)}
    kept = [place for place, label in enumerate(pictures.labels) if label in labels]
    return LabelledPictures(
        pictures=[pictures.pictures[place] for place in kept],
        labels=[labels[pictures.labels[place]] for place in kept],
        class_names=tuple(pictures.class_names[place] for place in places),
        description=f"the {what} classes of {pictures.description}",
    )


def _is_pictograms(source: str) -> bool:
    """Whether a source is the bundled world or a part of it."""
    return source.partition(":")[0] == PICTOGRAMS and not Path(source).exists()


def _name_of(source: str) -> str:
    """What people call a source: the last part of its path."""
    return printable(Path(source).expanduser().resolve().name or source)


def _num_held_out(count: int, share: float) -> int:
    """How many of a class's pictures are held out: one at least and never all, where there are two."""
    return min(max(1, math.floor(count * share)), count - 1) if count > 1 and share > 0 else 0


def _name_below(root: Path, picture: PictureSource) -> str:
    if isinstance(picture, Path) and picture.is_relative_to(root):
        return picture.relative_to(root).as_posix()
    return str(picture)


def _listing_of(parts: Mapping[str, PictureSet]) -> str:
    """Hash of classes, names and labels; what the pictures show is not looked at."""
    pieces: list[str] = []
    for name, part in parts.items():
        pieces += ["part", name, *part.class_names, "pictures"]
        pieces += [f"{record.label} {_name_below(part.root, record.picture)}" for record in part.records]
    return short_hash(*pieces)
