"""The fifteen data sets on which the field compares methods: a row each, and their pictures as people already have them on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from promptmix.data.benchmark_readers import Listed, read_class_folders, read_split_file, read_variant_lists
from promptmix.data.records import PARTS, PictureSet
from promptmix.errors import ConfigError, DataError, did_you_mean

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkParts", "benchmark_named", "read_benchmark"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set of the field.

    Attributes:
        name: what people type.
        title: what stands in tables.
        folder: its folder, in the folder that holds all benchmarks.
        image_folder: the folder with the pictures, in ``folder``; empty where paths of the split file begin in ``folder``.
        split_files: what says which picture is which class and in which part; for ImageNet and its kin the names of the classes.
        reader: the layout: a split file, the text files of FGVC Aircraft, class folders called by synset or by number.
        part_folders: for the layouts of class folders, each part and its folder in ``image_folder``.
        num_classes: how many classes it has.
        num_train: how many pictures each part has; 0 where there is no such part.
        num_val: as ``num_train``.
        num_test: as ``num_train``.
        template: the template of the published zero-shot numbers, with ``{}`` for the class name.
        get: what to fetch, and where to put it.
        split_sha256: the hash of the official split file; None where it is not known, or where there is no such file.
        aliases: other names that people type.
    """

    name: str
    title: str
    folder: str
    image_folder: str
    split_files: tuple[str, ...]
    reader: Literal["split file", "variant lists", "synset folders", "numbered folders"] = "split file"
    part_folders: tuple[tuple[str, str], ...] = ()
    num_classes: int
    num_train: int = 0
    num_val: int = 0
    num_test: int
    template: str = "a photo of a {}."
    get: str
    split_sha256: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def num_pictures(self) -> dict[str, int]:
        """How many pictures each part has, of the parts that it has."""
        return {part: number for part, number in zip(PARTS, (self.num_train, self.num_val, self.num_test), strict=True) if number}


@dataclass(frozen=True, kw_only=True)
class BenchmarkParts:
    """The pictures of a benchmark.

    Attributes:
        parts: the parts that it has, of ``train``, ``val`` and ``test`` in this order; ``root`` is the data set's own folder.
        is_official: whether split and numbers are those of the benchmark.
        notes: what must stand beside every number measured on these pictures; where they are not the official ones, in what they
            differ.
    """

    benchmark: Benchmark
    parts: dict[str, PictureSet]
    is_official: bool
    notes: tuple[str, ...]


# The MIT licence of that repository covers the seven split files whose hashes are below.
_SPLITS = "the split file is in splits/ of github.com/linzhiqiu/cross_modal_adaptation"
_MORE_SPLITS = "the split file is linked in DATASETS.md of github.com/KaiyangZhou/CoOp"
_NAMES = "classnames.txt is linked in DATASETS.md of github.com/KaiyangZhou/CoOp"

_ROWS = (
    Benchmark(
        name="imagenet",
        title="ImageNet",
        folder="imagenet",
        image_folder="images",
        split_files=("classnames.txt",),
        reader="synset folders",
        # The labels of the official test pictures are secret, so the field measures on val, and nothing is left to choose on.
        part_folders=(("train", "train"), ("test", "val")),
        num_classes=1000,
        num_train=1_281_167,
        num_test=50_000,
        get="unpack ILSVRC2012 (image-net.org) to imagenet/images/train/SYNSET/ and imagenet/images/val/SYNSET/; " + _NAMES,
        aliases=("imagenet1k", "ilsvrc2012"),
    ),
    Benchmark(
        name="caltech101",
        title="Caltech101",
        folder="caltech-101",
        image_folder="101_ObjectCategories",
        split_files=("split_zhou_Caltech101.json",),
        num_classes=100,
        num_train=4_128,
        num_val=1_649,
        num_test=2_465,
        get="unpack 101_ObjectCategories.tar.gz, in caltech-101.zip of data.caltech.edu/records/mzrjq-6wc02, in caltech-101/; "
        + _SPLITS,
        split_sha256="52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
    ),
    Benchmark(
        name="oxford-pets",
        title="OxfordPets",
        folder="oxford_pets",
        image_folder="images",
        split_files=("split_zhou_OxfordPets.json",),
        num_classes=37,
        num_train=2_944,
        num_val=736,
        num_test=3_669,
        template="a photo of a {}, a type of pet.",
        get="unpack images.tar.gz of www.robots.ox.ac.uk/~vgg/data/pets in oxford_pets/; " + _SPLITS,
        split_sha256="d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
        aliases=("pets", "oxford-iiit-pet", "oxford-iiit-pets"),
    ),
    Benchmark(
        name="stanford-cars",
        title="StanfordCars",
        folder="stanford_cars",
        image_folder="",
        split_files=("split_zhou_StanfordCars.json",),
        num_classes=196,
        num_train=6_509,
        num_val=1_635,
        num_test=8_041,
        get="unpack cars_train.tgz and cars_test.tgz (github.com/pytorch/vision/issues/7545 says where) in stanford_cars/; "
        + _SPLITS,
        split_sha256="40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
        aliases=("cars",),
    ),
    Benchmark(
        name="oxford-flowers",
        title="Flowers102",
        folder="oxford_flowers",
        image_folder="jpg",
        split_files=("split_zhou_OxfordFlowers.json",),
        num_classes=102,
        num_train=4_093,
        num_val=1_633,
        num_test=2_463,
        template="a photo of a {}, a type of flower.",
        get="unpack 102flowers.tgz of www.robots.ox.ac.uk/~vgg/data/flowers/102 in oxford_flowers/; " + _SPLITS,
        split_sha256="2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
        aliases=("flowers", "oxford-flowers102"),
    ),
    Benchmark(
        name="food101",
        title="Food101",
        folder="food-101",
        image_folder="images",
        split_files=("split_zhou_Food101.json",),
        num_classes=101,
        num_train=50_500,
        num_val=20_200,
        num_test=30_300,
        template="a photo of {}, a type of food.",
        get="unpack food-101.tar.gz of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101 beside the other benchmarks; "
        + _MORE_SPLITS,
        aliases=("food",),
    ),
    Benchmark(
        name="fgvc-aircraft",
        title="FGVCAircraft",
        folder="fgvc_aircraft",
        image_folder="images",
        split_files=("variants.txt", "images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt"),
        reader="variant lists",
        num_classes=100,
        num_train=3_334,
        num_val=3_333,
        num_test=3_333,
        template="a photo of a {}, a type of aircraft.",
        get="unpack fgvc-aircraft-2013b.tar.gz of www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft; its folder data/ is fgvc_aircraft/",
        aliases=("aircraft",),
    ),
    Benchmark(
        name="sun397",
        title="SUN397",
        folder="sun397",
        image_folder="SUN397",
        split_files=("split_zhou_SUN397.json",),
        num_classes=397,
        num_train=15_880,
        num_val=3_970,
        num_test=19_850,
        get="unpack SUN397.tar.gz of vision.princeton.edu/projects/2010/SUN in sun397/; " + _MORE_SPLITS,
        aliases=("sun",),
    ),
    Benchmark(
        name="dtd",
        title="DTD",
        folder="dtd",
        image_folder="images",
        split_files=("split_zhou_DescribableTextures.json",),
        num_classes=47,
        num_train=2_820,
        num_val=1_128,
        num_test=1_692,
        template="{} texture.",
        get="unpack dtd-r1.0.1.tar.gz of www.robots.ox.ac.uk/~vgg/data/dtd beside the other benchmarks; " + _SPLITS,
        split_sha256="f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
        aliases=("describable-textures",),
    ),
    Benchmark(
        name="eurosat",
        title="EuroSAT",
        folder="eurosat",
        image_folder="2750",
        split_files=("split_zhou_EuroSAT.json",),
        num_classes=10,
        num_train=13_500,
        num_val=5_400,
        num_test=8_100,
        template="a centered satellite photo of {}.",
        get="unpack EuroSAT.zip (huggingface.co/datasets/torchgeo/eurosat) in eurosat/; " + _SPLITS,
        split_sha256="541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
    ),
    Benchmark(
        name="ucf101",
        title="UCF101",
        folder="ucf101",
        image_folder="UCF-101-midframes",
        split_files=("split_zhou_UCF101.json",),
        num_classes=101,
        num_train=7_639,
        num_val=1_898,
        num_test=3_783,
        template="a photo of a person doing {}.",
        get="unpack UCF-101-midframes.zip, linked in DATASETS.md of github.com/KaiyangZhou/CoOp, in ucf101/; " + _SPLITS,
        split_sha256="d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
    ),
    Benchmark(
        name="imagenet-v2",
        title="ImageNetV2",
        folder="imagenetv2",
        image_folder="imagenetv2-matched-frequency-format-val",
        split_files=("classnames.txt",),
        reader="numbered folders",
        part_folders=(("test", ""),),
        num_classes=1000,
        num_test=10_000,
        get="unpack imagenetv2-matched-frequency.tar.gz (huggingface.co/datasets/vaishaal/ImageNetV2) in imagenetv2/; " + _NAMES,
    ),
    Benchmark(
        name="imagenet-sketch",
        title="ImageNet-Sketch",
        folder="imagenet-sketch",
        image_folder="images",
        split_files=("classnames.txt",),
        reader="synset folders",
        part_folders=(("test", ""),),
        num_classes=1000,
        num_test=50_889,
        get="unpack ImageNet-Sketch (github.com/HaohanWang/ImageNet-Sketch), its folder sketch/ as imagenet-sketch/images/; "
        + _NAMES,
    ),
    Benchmark(
        name="imagenet-a",
        title="ImageNet-A",
        folder="imagenet-adversarial",
        image_folder="imagenet-a",
        split_files=("classnames.txt",),
        reader="synset folders",
        part_folders=(("test", ""),),
        num_classes=200,
        num_test=7_500,
        get="unpack imagenet-a.tar (github.com/hendrycks/natural-adv-examples) in imagenet-adversarial/; " + _NAMES,
    ),
    Benchmark(
        name="imagenet-r",
        title="ImageNet-R",
        folder="imagenet-rendition",
        image_folder="imagenet-r",
        split_files=("classnames.txt",),
        reader="synset folders",
        part_folders=(("test", ""),),
        num_classes=200,
        num_test=30_000,
        get="unpack imagenet-r.tar (github.com/hendrycks/imagenet-r) in imagenet-rendition/; " + _NAMES,
    ),
)

BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
"""The fifteen data sets by name."""


def benchmark_named(name: str) -> Benchmark:
    """The benchmark that a person means: case, hyphens and underscores do not matter, and usual other names will do.

    Raises:
        ConfigError: there is no such benchmark.
    """
    for row in BENCHMARKS.values():
        if _plain(name) in map(_plain, (row.name, row.title, row.folder, *row.aliases)):
            return row
    raise ConfigError(f"no benchmark is called {name!r}{did_you_mean(name, BENCHMARKS)}")


def read_benchmark(benchmark: str | Benchmark, root: str | Path, *, allow_other_split: bool = False) -> BenchmarkParts:
    """The pictures of a benchmark, by part; none is opened.

    A part that a benchmark does not have is not there: ImageNet has no val part, its relatives have only a test part. Classes are in
    the order of the labels, which for ImageNet and its relatives is that of the synsets. Of several classes with the same name those
    but one are renamed, and a note says so.

    Args:
        benchmark: a name that :func:`benchmark_named` knows, or a row of one's own.
        root: the folder that holds the folders of the benchmarks.
        allow_other_split: take what is there even where the split file or the numbers of classes and pictures are not the official
            ones; the notes then say so.

    Raises:
        ConfigError: there is no such benchmark.
        DataError: the folder, the split or pictures are missing, or they are not the official ones. What is missing is never made
            up.
    """
    row = benchmark_named(benchmark) if isinstance(benchmark, str) else benchmark
    root = Path(root).expanduser()
    folder = root / row.folder
    if not folder.is_dir():
        own = f"; {root} looks like it: give the folder above" if (root / row.image_folder).is_dir() and row.image_folder else ""
        raise DataError(f"{row.title}: there is no folder {folder}{own}; {row.get}")
    image_folder = folder / row.image_folder
    for needed in (image_folder, *(image_folder / inside for _, inside in row.part_folders)):
        if not needed.is_dir():
            raise DataError(f"{row.title}: there is no folder {needed} with its pictures; {row.get}")
    split_files = [_split_file(row, root, name) for name in row.split_files]

    differences: list[str] = []
    part_folders = {part: image_folder / inside for part, inside in row.part_folders}
    if row.reader == "split file":
        content = _content(split_files[0])
        digest = hashlib.sha256(content).hexdigest()
        if row.split_sha256 not in (None, digest):
            differences.append(
                f"{split_files[0]} has the sha256 {digest[:12]}..., that of the official file is {row.split_sha256[:12]}..."
            )
        there = read_split_file(split_files[0], content, image_folder)
    elif row.reader == "variant lists":
        there = read_variant_lists(folder, image_folder)
    else:
        numbered_among = row.num_classes if row.reader == "numbered folders" else None
        there = read_class_folders(part_folders, split_files[0], numbered_among=numbered_among)
    differences += _other_numbers(row, there)
    if differences and not allow_other_split:
        raise DataError(f"{row.title} is not the official one: {'; '.join(differences)}; {row.get}")
    if not row.part_folders:
        _refuse_missing(row, there)
    others = (f"{row.title} is not the official one: {'; '.join(differences)}",) if differences else ()
    return BenchmarkParts(
        benchmark=row,
        parts={
            part: PictureSet(root=folder, class_names=there.class_names, records=there.parts[part])
            for part in PARTS
            if there.parts.get(part)
        },
        is_official=not differences,
        notes=(*others, *there.notes),
    )


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name.casefold())


def _split_file(row: Benchmark, root: Path, name: str) -> Path:
    """Where a file of the split lies; the names of ImageNet's classes may lie with ImageNet alone."""
    places = [root / row.folder / name]
    if row.part_folders:
        places.append(root / BENCHMARKS["imagenet"].folder / name)
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{row.title}: {places[0]} is missing; {row.get}")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}; change its rights") from problem


def _other_numbers(row: Benchmark, there: Listed) -> Sequence[str]:
    """In which numbers of classes and pictures a data set is not as it should be, in words."""
    numbers = [("classes", len(there.class_names), row.num_classes)]
    expected = row.num_pictures
    numbers += [(f"{part} pictures", len(there.parts.get(part, ())), expected.get(part, 0)) for part in PARTS]
    return [f"it has {found:,} {what}, not {number:,}" for what, found, number in numbers if found != number]


def _refuse_missing(row: Benchmark, there: Listed) -> None:
    pictures = [record.picture for records in there.parts.values() for record in records]
    missing = [picture for picture in pictures if isinstance(picture, Path) and not picture.is_file()]
    if missing:
        raise DataError(
            f"{row.title}: {len(missing):,} of the {len(pictures):,} pictures that the split names are missing, such as {missing[0]};"
            f" {row.get}"
        )
