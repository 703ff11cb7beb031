from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from promptmix.data.benchmark_readers import names_kept_apart, read_split_file
from promptmix.data.benchmarks import BENCHMARKS, Benchmark, BenchmarkParts, benchmark_named, read_benchmark
from promptmix.data.images import open_picture
from promptmix.data.records import PARTS, class_key
from promptmix.data.sampling import base_new_split
from promptmix.errors import ConfigError, DataError

# Four classes, in label order; what a picture shows is its class.
NAMES = ("Red_fish", "Great white shark", "crane", "crane")
SYNSETS = ("n01440764", "n01484850", "n02012849", "n03126707")
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250))
PER_CLASS = {"train": 3, "val": 1, "test": 2}
WITH_SPLIT_FILE = [name for name, row in BENCHMARKS.items() if row.reader == "split file"]
OF_FOLDERS = [name for name, row in BENCHMARKS.items() if row.part_folders]


def put(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), COLOURS[label]).save(path, "JPEG")


def write_split(root: Path, row: Benchmark, change: Callable[[dict[str, list[Any]]], None] = lambda split: None) -> Benchmark:
    """Write the split file; the row knows its hash where the real one is known."""
    names = ("Red_fish", "Great white shark", "crane (bird)", "crane")
    split: dict[str, list[Any]] = {}
    for part, count in PER_CLASS.items():
        # The files list labels in any order.
        rows = [(label, number) for label in (2, 0, 3, 1) for number in range(count)]
        split[part] = [[f"class{label}/{part}_{number}_fish_shop.jpg", label, names[label]] for label, number in rows]
    change(split)
    content = json.dumps(split).encode()
    (root / row.folder / row.split_files[0]).write_bytes(content)
    return replace(row, split_sha256=row.split_sha256 and hashlib.sha256(content).hexdigest())


def build(root: Path, row: Benchmark) -> Benchmark:
    """A miniature of a benchmark in its own layout, and its row with the numbers of the miniature."""
    folder, pictures = root / row.folder, root / row.folder / row.image_folder
    folder.mkdir(parents=True)
    parts = {part: PER_CLASS[part] for part in row.num_pictures}
    small = replace(row, num_classes=4, **{f"num_{part}": 4 * count for part, count in parts.items()})
    if row.reader == "split file":
        for part, count in parts.items():
            for label in range(4):
                for number in range(count):
                    put(pictures / f"class{label}/{part}_{number}_fish_shop.jpg", label)
        return write_split(root, small)
    if row.reader == "variant lists":
        variants = ("F/A-18", "Boeing 747", "DH-82", "An-12")
        (folder / "variants.txt").write_text("\n".join(variants) + "\n")
        for start, (part, count) in enumerate(parts.items()):
            rows = [(f"{start}{label}{number}", label) for number in range(count) for label in (2, 0, 3, 1)]
            (folder / f"images_variant_{part}.txt").write_text("".join(f"{name} {variants[label]}\n" for name, label in rows))
            for name, label in rows:
                put(pictures / f"{name}.jpg", label)
        return small
    # Not in the order of the synsets, which is that of the labels whatever the order of the lines.
    lines = [f"{synset} {name}" for synset, name in zip(SYNSETS, NAMES, strict=True)]
    (folder / "classnames.txt").write_text("\n".join(reversed(lines)) + "\n")
    for part, inside in row.part_folders:
        for label, synset in enumerate(SYNSETS):
            for number in range(parts[part]):
                called = str(label) if row.reader == "numbered folders" else synset
                put(pictures / inside / called / f"{number}_fish_shop.JPEG", label)
        (pictures / inside / "README.txt").write_text("no class")
        (pictures / inside / ".hidden").mkdir()
    return small


def refused(row: Benchmark, root: Path, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(row, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def shown(read: BenchmarkParts, part: str) -> list[int]:
    """The class that each picture shows."""
    colours = [open_picture(picture).getpixel((4, 4)) for picture in read.parts[part].pictures]
    return [
        min(range(4), key=lambda label: sum(abs(one - other) for one, other in zip(COLOURS[label], colour, strict=True)))
        for colour in colours
    ]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_of_the_fifteen_is_read(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    read = read_benchmark(row, str(tmp_path))
    assert list(read.parts) == list(row.num_pictures)
    assert read.is_official
    assert read.benchmark is row
    for part, pictures in read.parts.items():
        assert pictures.root == tmp_path / row.folder
        assert pictures.counts() == (PER_CLASS[part],) * 4
        assert list(pictures.labels) == shown(read, part)
        assert all(picture.is_relative_to(pictures.root / row.image_folder) for picture in pictures.pictures)
    if row.reader == "split file":
        assert read.parts["test"].class_names == ("Red fish", "Great white shark", "crane (bird)", "crane")
        assert read.parts["test"].labels == (2, 2, 0, 0, 3, 3, 1, 1)  # the order of the file
        assert read.notes == ()
    elif row.reader == "variant lists":
        assert read.parts["test"].class_names == ("F/A-18", "Boeing 747", "DH-82", "An-12")
        assert read.parts["test"].labels == (2, 0, 3, 1) * 2
        assert read.notes == ()
    else:
        assert read.parts["test"].class_names == ("Red fish", "Great white shark", "crane bird", "construction crane")
        assert read.parts["test"].labels == (0, 0, 1, 1, 2, 2, 3, 3)
        assert read.notes == (
            "classes of the same name are told apart: n02012849 'crane' is called 'crane bird',"
            " n03126707 'crane' is called 'construction crane'",
        )


def test_only_imagenet_has_no_val_part_among_those_to_learn_from() -> None:
    without = [name for name, row in BENCHMARKS.items() if "train" in row.num_pictures and "val" not in row.num_pictures]
    assert without == ["imagenet"]
    assert [name for name, row in BENCHMARKS.items() if list(row.num_pictures) == ["test"]] == OF_FOLDERS[1:]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_folder_says_what_to_fetch(tmp_path: Path, name: str) -> None:
    row = BENCHMARKS[name]
    message = refused(row, tmp_path)
    assert f"there is no folder {tmp_path / row.folder}" in message
    assert row.get in message
    assert row.folder in row.get or "beside the other benchmarks" in row.get
    (tmp_path / row.folder).mkdir()
    assert "is missing" in refused(row, tmp_path) or "with its pictures" in refused(row, tmp_path)


def test_the_folder_of_the_data_set_itself_is_told_from_the_one_above(tmp_path: Path) -> None:
    row = build(tmp_path, BENCHMARKS["dtd"])
    assert f"{tmp_path / 'dtd'} looks like it: give the folder above" in refused(row, tmp_path / "dtd")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_split_is_an_error_and_is_not_made_up(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    file = tmp_path / row.folder / row.split_files[-1]
    file.unlink()
    before = sorted(tmp_path.rglob("*"))
    for allowed in (False, True):
        message = refused(row, tmp_path, allow_other_split=allowed)
        assert f"{file} is missing" in message
        assert row.get in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_a_changed_split_is_refused_or_described(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    split_file = tmp_path / row.folder / row.split_files[0]
    content = split_file.read_bytes()
    split_file.write_bytes(content.replace(b"]]", b"] ]"))  # the same pictures
    if row.split_sha256 is None:
        assert read_benchmark(row, tmp_path).is_official
    else:
        message = refused(row, tmp_path)
        assert f"official file is {row.split_sha256[:12]}" in message
        assert "it has" not in message
        assert row.get in message
        read = read_benchmark(row, tmp_path, allow_other_split=True)
        assert not read.is_official
        assert read.notes[0].startswith(f"{row.title} is not the official one: ")
        assert hashlib.sha256(split_file.read_bytes()).hexdigest()[:12] in read.notes[0]
    split_file.write_bytes(content)
    assert read_benchmark(row, tmp_path).is_official


@pytest.mark.parametrize("name", BENCHMARKS)
def test_other_numbers_are_refused_or_described(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    classes = row.num_classes if row.reader == "numbered folders" else 1_005  # there the names must be as many
    expected = replace(row, num_classes=classes, num_test=10_000)
    message = refused(expected, tmp_path)
    assert "it has 8 test pictures, not 10,000" in message
    assert ("it has 4 classes, not 1,005" in message) == (row.reader != "numbered folders")
    assert row.get in message
    read = read_benchmark(expected, tmp_path, allow_other_split=True)
    assert not read.is_official
    assert "it has 8 test pictures, not 10,000" in read.notes[0]
    assert len(read.parts["test"]) == 8


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_a_picture_too_few_in_class_folders_is_found(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    next((tmp_path / row.folder).rglob("*.JPEG")).unlink()
    assert re.search("it has (7 test|11 train) pictures, not (8|12)", refused(row, tmp_path))


@pytest.mark.parametrize("name", [*WITH_SPLIT_FILE, "fgvc-aircraft"])
def test_missing_pictures_are_one_error_with_their_number_and_the_first(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    test = read_benchmark(row, tmp_path).parts["test"].pictures
    for picture in test[3:6]:
        Path(str(picture)).unlink()
    message = refused(row, tmp_path)
    assert f"3 of the 24 pictures that the split names are missing, such as {test[3]};" in message
    assert row.get in message
    assert "3 of the 24" in refused(row, tmp_path, allow_other_split=True)


def appended(*row: Any) -> Callable[[dict[str, list[Any]]], None]:
    return lambda split: split["train"].append(list(row))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (appended("../secret.jpg", 0, "Red_fish"), r"'\.\./secret\.jpg' leads out of the folder"),
        (appended("class0/../../secret.jpg", 0, "Red_fish"), "leads out"),
        (appended("class0\\..\\..\\secret.jpg", 0, "Red_fish"), "leads out"),
        (appended("/etc/secret.jpg", 0, "Red_fish"), "leads out"),
        (appended("class1/test_0_fish_shop.jpg", 1, "Great white shark"), r"is listed twice \(train and test\)"),
        (appended("class0/new.jpg", 0, "Blue_fish"), "label 0 is called 'Red_fish' and 'Blue_fish'"),
        (appended("class0/new.jpg", 6, "Blue_fish"), "no picture has label 4, so it has no name"),
        (appended("class0/new.jpg", -1, "Blue_fish"), "no picture has label 4"),
        (appended("class0/new.jpg", "4", "Blue_fish"), "is not a split file: train.12.1: "),
        (appended("class0/new.jpg", 4, ""), "class name '' is empty"),
        (appended("class0/new.jpg", 4), "is not a split file: train.12"),
        (lambda split: split.update(trial=[]), "is not a split file: trial"),
        (lambda split: split.pop("val"), "it has 0 val pictures, not 4"),
        (lambda split: split.clear(), "no class names"),
    ],
)
def test_split_files_that_cannot_be_used(tmp_path: Path, change: Callable[[dict[str, list[Any]]], None], message: str) -> None:
    row = write_split(tmp_path, build(tmp_path, BENCHMARKS["food101"]), change)
    assert re.search(message, refused(row, tmp_path))


def test_a_split_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    row = build(tmp_path, BENCHMARKS["sun397"])
    (tmp_path / row.folder / row.split_files[0]).write_bytes(b"<html>quota exceeded</html>")
    assert "is not a split file: the file: Invalid JSON" in refused(row, tmp_path)


def test_two_labels_of_one_name_in_a_split_keep_their_rows(tmp_path: Path) -> None:
    def same(split: dict[str, list[Any]]) -> None:
        for rows in split.values():
            for row in rows:
                row[2] = "Crane_" if row[1] == 2 else row[2]

    row = write_split(tmp_path, build(tmp_path, BENCHMARKS["food101"]), same)
    read = read_benchmark(row, tmp_path)
    assert read.parts["test"].class_names == ("Red fish", "Great white shark", "Crane", "crane 2")
    assert list(read.parts["test"].labels) == shown(read, "test")
    assert read.notes == ("classes of the same name are told apart: 3 'crane' is called 'crane 2'",)


def test_a_split_need_not_have_every_part_where_another_split_is_allowed(tmp_path: Path) -> None:
    row = write_split(tmp_path, build(tmp_path, BENCHMARKS["dtd"]), lambda split: split.update(val=[]))
    read = read_benchmark(row, tmp_path, allow_other_split=True)
    assert list(read.parts) == ["train", "test"]
    assert "it has 0 val pictures, not 4" in read.notes[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("variants.txt", "F/A-18\nF/A-18\n", "are the same name"),
        ("images_variant_val.txt", "100 Boeing 737\n", "'100 Boeing 737' names no class of variants.txt"),
        ("images_variant_val.txt", "100\n", "'100' names no class"),
        ("images_variant_val.txt", "../100 DH-82\n", "leads out of the folder"),
        ("images_variant_val.txt", "200 DH-82\n", r"listed twice \(val and test\)"),
        ("images_variant_val.txt", "\xff", "is not a text file in UTF-8"),
    ],
)
def test_aircraft_lists_that_cannot_be_used(tmp_path: Path, file: str, text: str, message: str) -> None:
    row = build(tmp_path, BENCHMARKS["fgvc-aircraft"])
    (tmp_path / row.folder / file).write_bytes(text.encode("latin-1"))
    assert re.search(message, refused(row, tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764 tench\nn01440764 fish\n", "names n01440764 twice"),
        ("n01440764\n", "'n01440764' is no synset with a name behind it"),
        ("0 tench\n", "'0 tench' is no synset"),
        ("n01440764 tench\nn01484850 shark\nn02012849 crane\n", "n03126707 is no class that .*classnames.txt names"),
    ],
)
def test_class_names_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    row = build(tmp_path, BENCHMARKS["imagenet"])
    (tmp_path / row.folder / "classnames.txt").write_text(text)
    assert re.search(message, refused(row, tmp_path))


def test_the_parts_of_imagenet_must_have_the_same_classes(tmp_path: Path) -> None:
    row = build(tmp_path, BENCHMARKS["imagenet"])
    images = tmp_path / "imagenet/images"
    (images / "val" / SYNSETS[1]).rename(tmp_path / "elsewhere")
    assert f"have not the same classes: {SYNSETS[1]}" in refused(row, tmp_path, allow_other_split=True)


def test_imagenet_val_as_one_heap_of_files_is_refused(tmp_path: Path) -> None:
    row = build(tmp_path, BENCHMARKS["imagenet"])
    val = tmp_path / "imagenet/images/val"
    for synset in SYNSETS:
        (val / synset).rename(tmp_path / f"val_{synset}")
    put(val / "ILSVRC2012_val_00000001.JPEG", 0)
    assert f"{val} has no class folders; it should hold one a class, such as {val / 'n01440764'}" in refused(row, tmp_path)
    assert "images/val/SYNSET/" in row.get


@pytest.mark.parametrize("name", OF_FOLDERS[1:])
def test_the_relatives_of_imagenet_take_its_names(tmp_path: Path, name: str) -> None:
    build(tmp_path, BENCHMARKS["imagenet"])
    row = build(tmp_path, BENCHMARKS[name])
    own = tmp_path / row.folder / "classnames.txt"
    with_own = read_benchmark(row, tmp_path)
    own.unlink()
    assert read_benchmark(row, tmp_path) == with_own


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_a_part_of_imagenets_classes_keeps_their_names(tmp_path: Path, name: str) -> None:
    row = build(tmp_path, BENCHMARKS[name])
    for synset in SYNSETS[1:3]:
        (tmp_path / row.folder / row.image_folder / synset).rename(tmp_path / synset)
    read = read_benchmark(replace(row, num_classes=2, num_test=4), tmp_path)
    assert read.parts["test"].class_names == ("Red fish", "construction crane")
    assert shown(read, "test") == [0, 0, 3, 3]
    assert read.notes == ("classes of the same name are told apart: n03126707 'crane' is called 'construction crane'",)


def test_numbered_folders_that_are_no_classes(tmp_path: Path) -> None:
    row = build(tmp_path, BENCHMARKS["imagenet-v2"])
    pictures = tmp_path / row.folder / row.image_folder
    (pictures / "thumbnails").mkdir()
    assert read_benchmark(row, tmp_path).notes[0] == f"folders in {pictures} that are no classes were left out: thumbnails"
    (pictures / "01").mkdir()
    assert f"{pictures / '01'} and {pictures / '1'} are the same class" in refused(row, tmp_path)
    (pictures / "01").rename(pictures / "4")
    assert f"{pictures / '4'} is no class" in refused(row, tmp_path)
    assert "names 4 classes, but folders are numbered among 5" in refused(replace(row, num_classes=5), tmp_path)


def test_numbered_folders_count_numbers_not_letters(tmp_path: Path) -> None:
    row = replace(BENCHMARKS["imagenet-v2"], num_classes=12, num_test=12)
    folder = tmp_path / row.folder
    folder.mkdir()
    (folder / "classnames.txt").write_text("".join(f"n{number:08} thing {number}\n" for number in range(12)))
    for number in range(12):
        put(folder / row.image_folder / str(number) / f"{number}.jpeg", 0)
    test = read_benchmark(row, tmp_path).parts["test"]
    assert test.class_names == tuple(f"thing {number}" for number in range(12))
    assert [test.class_names[record.label] for record in test.records] == [f"thing {Path(str(p)).stem}" for p in test.pictures]


def test_names_of_imagenet_that_go_round_twice() -> None:
    clip = {"n03773504": "missile", "n04008634": "missile", "n04355933": "sunglasses", "n04356056": "sunglasses"}
    assert list(names_kept_apart(clip).values()) == ["missile", "projectile", "sunglass", "sunglasses"]
    wordnet = {"n02012849": "crane", "n03126707": "crane", "n03710637": "maillot", "n03710721": "maillot"}
    assert list(names_kept_apart(wordnet).values()) == ["crane bird", "construction crane", "maillot", "tank suit"]
    single = {"n03126707": "crane", "n04008634": "missile"}
    assert names_kept_apart(single) == single
    taken = {"n04008634": "missile", "a": "projectile", "b": "Missile", "c": "missile 2"}
    assert list(names_kept_apart(taken).values()) == ["missile", "projectile", "Missile 3", "missile 2"]


@given(st.lists(st.sampled_from(["a", "A", "a 2", "b", "a 3"]), max_size=8))
def test_names_are_kept_apart_whatever_they_are(names: list[str]) -> None:
    apart = names_kept_apart(dict(enumerate(names)))
    assert list(apart) == list(range(len(names)))
    assert len({class_key(name) for name in apart.values()}) == len(names)
    times = [[class_key(other) for other in names].count(class_key(name)) for name in names]
    assert all(apart[place] == name for place, name in enumerate(names) if times[place] == 1)


@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.split_sha256])
def test_the_official_split_files_are_those_of_the_table(shared: Path, name: str) -> None:
    row = BENCHMARKS[name]
    file = shared / "data" / "coop_splits" / row.split_files[0]
    content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == row.split_sha256
    split = read_split_file(file, content, Path())
    assert {part: len(records) for part, records in split.parts.items()} == row.num_pictures
    assert len(split.class_names) == row.num_classes
    assert split.notes == ()


def test_an_official_split_with_its_folder(shared: Path, tmp_path: Path) -> None:
    row = BENCHMARKS["dtd"]
    content = (shared / "data" / "coop_splits" / row.split_files[0]).read_bytes()
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / row.split_files[0]).write_bytes(content)
    rows = json.loads(content)
    for path in {path for part in rows.values() for path, _, _ in part}:
        picture = tmp_path / "dtd" / "images" / path
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()  # they are listed, not opened
    read = read_benchmark("DTD", tmp_path)
    assert read.is_official
    assert read.notes == ()
    for part, pictures in read.parts.items():
        listed = [
            [str(picture.relative_to(tmp_path / "dtd/images")), label]
            for picture, label in zip(pictures.pictures, pictures.labels, strict=True)
        ]
        assert listed == [[path, label] for path, label, _ in rows[part]]


TEMPLATES = {
    "oxford-pets": "a photo of a {}, a type of pet.",
    "oxford-flowers": "a photo of a {}, a type of flower.",
    "fgvc-aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}


def test_the_templates_of_the_protocol() -> None:
    assert {name: row.template for name, row in BENCHMARKS.items()} == dict.fromkeys(BENCHMARKS, "a photo of a {}.") | TEMPLATES


def test_the_table_is_that_of_the_protocol(shared: Path) -> None:
    text = (shared / "design" / "PROTOCOL.md").read_text(encoding="utf-8")
    found = 0
    for row in BENCHMARKS.values():
        line = re.search(rf"^\| {row.title} \| (.*) \|$", text, re.MULTILINE)
        if line is None:
            continue
        folder, _, split_file, classes, halves, numbers = line[1].split(" | ")
        assert folder == row.folder
        assert split_file in row.split_files or "images_variant" in split_file
        assert int(classes.split()[0]) == row.num_classes
        assert halves == "/".join(str(len(half)) for half in base_new_split(row.num_classes))
        assert [row.num_pictures.get(part) for part in PARTS] == [
            None if number == "-" else int(number.replace(",", "")) for number in numbers.split(" (")[0].split(" / ")
        ]
        found += 1
    assert found == 11


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("oxford_flowers", "oxford-flowers"),
        ("flowers102", "oxford-flowers"),
        ("Flowers-102", "oxford-flowers"),
        ("food-101", "food101"),
        ("caltech-101", "caltech101"),
        ("fgvc_aircraft", "fgvc-aircraft"),
        ("aircraft", "fgvc-aircraft"),
        ("OxfordPets", "oxford-pets"),
        ("oxford_iiit_pet", "oxford-pets"),
        ("cars", "stanford-cars"),
        ("imagenetv2", "imagenet-v2"),
        ("imagenet-adversarial", "imagenet-a"),
        ("ImageNet-R", "imagenet-r"),
        ("imagenet_sketch", "imagenet-sketch"),
        ("ImageNet", "imagenet"),
        ("SUN397", "sun397"),
    ],
)
def test_names_that_people_type(typed: str, meant: str) -> None:
    assert benchmark_named(typed) is BENCHMARKS[meant]


def test_no_name_means_two_benchmarks() -> None:
    meant = [
        {re.sub("[-_]", "", name.casefold()) for name in (row.name, row.title, row.folder, *row.aliases)}
        for row in BENCHMARKS.values()
    ]
    assert sum(map(len, meant)) == len(set().union(*meant))


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"no benchmark is called 'eurosat2'; did you mean 'eurosat'\? Allowed: imagenet, "):
        benchmark_named("eurosat2")


def test_the_page_has_the_same_table(repo_root: Path) -> None:
    text = (repo_root / "docs" / "data-sets.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == list(BENCHMARKS)
    for name, row in BENCHMARKS.items():
        numbers = " / ".join(f"{number:,}" if number else "-" for number in (row.num_train, row.num_val, row.num_test))
        pictures = "/".join(filter(None, (row.folder, row.image_folder))) + "/"
        split = "`, `".join(row.split_files) if row.reader != "variant lists" else "images_variant_*.txt`, `variants.txt"
        assert rows[name] == f"`{pictures}` | `{split}` | {row.num_classes:,} | {numbers} | {row.template}"


def test_the_page_says_what_to_fetch(repo_root: Path) -> None:
    text = (repo_root / "docs" / "data-sets.md").read_text(encoding="utf-8")
    assert all(f"\n| {row.title} | {row.get} |\n" in text for row in BENCHMARKS.values())
