"""The one face of all sources: what is taken for what, parts, class order, and pictures without labels."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptmix.data.read import list_any_pictures, part_to_measure, read_parts, read_pictures
from promptmix.data.records import PictureSet
from promptmix.data.splits import write_split
from promptmix.errors import DataError


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def named(pictures: PictureSet) -> list[tuple[str, str]]:
    return [
        (record.picture.relative_to(pictures.root).as_posix(), pictures.class_names[record.label])
        for record in pictures.records
        if isinstance(record.picture, Path)
    ]


def refused(source: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_parts(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_class_folders_is_one_part(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dog/1.png")
    parts = read_parts(tmp_path)
    assert list(parts) == ["train"]
    assert named(parts["train"]) == [("cat/1.png", "cat"), ("dog/1.png", "dog")]
    assert read_pictures(str(tmp_path)) == parts["train"]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_of_parts_share_their_classes(tmp_path: Path, val: str) -> None:
    put(tmp_path / "train/cat/1.png", tmp_path / "train/dog/1.png", tmp_path / val / "dog/2.png", tmp_path / "test/Dog/3.png")
    parts = read_parts(tmp_path)
    assert {name: named(part) for name, part in parts.items()} == {
        "train": [("train/cat/1.png", "cat"), ("train/dog/1.png", "dog")],
        "val": [(f"{val}/dog/2.png", "dog")],
        "test": [("test/Dog/3.png", "dog")],
    }
    assert {part.class_names for part in parts.values()} == {("cat", "dog")}
    assert {part.root for part in parts.values()} == {tmp_path}
    write_split(tmp_path / "split.json", parts)


def test_an_unknown_class_in_the_test_part_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "train/cat/1.png", tmp_path / "train/dog/1.png", tmp_path / "test/dig/2.png")
    assert f"{tmp_path / 'test/dig'} is not a known class; did you mean 'dog'?" in refused(tmp_path)
    put(tmp_path / "val/dog/1.png", tmp_path / "valid/dog/1.png")
    assert "are both the val part" in refused(tmp_path)


def test_folders_beside_the_parts_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(
        *(tmp_path / part / name / "1.png" for part in ("train", "test") for name in ("cat", "dog")),
        tmp_path / "notes/drawing.png",
    )
    with caplog.at_level(logging.WARNING):
        assert list(read_parts(tmp_path)) == ["train", "test"]
    assert "not train, val or test: notes; left out" in caplog.text
    # Trains, buses and tests of cars are three classes, whatever lies in their folders.
    put(tmp_path / "cars/train/steam/1.png", tmp_path / "cars/bus/red/1.png", tmp_path / "cars/test/crash/1.png")
    assert read_pictures(tmp_path / "cars").class_names == ("bus", "test", "train")


@pytest.mark.parametrize("names", [("test",), ("val", "test"), ("Validation", "testing")])
def test_parts_without_a_train_part(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(*(tmp_path / part / name / "1.png" for part in names for name in ("cat", "dog")))
    parts = read_parts(tmp_path)
    assert list(parts) == (["test"] if len(names) == 1 else ["val", "test"])
    assert {part.class_names for part in parts.values()} == {("cat", "dog")}
    # Folders that hold pictures right away are classes, and so they are where one of another name is beside them.
    put(tmp_path / "flat/val/1.png", tmp_path / "flat/test/1.png", tmp_path / "more/val/cat/1.png", tmp_path / "more/bus/1.png")
    assert read_pictures(tmp_path / "flat").class_names == ("test", "val")
    assert read_pictures(tmp_path / "more").class_names == ("bus", "val")


def test_one_part_by_name(tmp_path: Path) -> None:
    put(*(tmp_path / part / name / "1.png" for part in ("train", "validation") for name in ("cat", "dog")))
    assert named(read_pictures(tmp_path, part="validation")) == named(read_pictures(tmp_path, part="val"))
    for part, words in (("test", "has no test part; it has train, val"), ("tran", "did you mean 'train'?")):
        with pytest.raises(DataError, match="part") as caught:
            read_pictures(tmp_path, part=part)
        assert words in str(caught.value)
    with pytest.raises(DataError, match="has the parts train, val; say which one"):
        read_pictures(tmp_path)


def test_what_is_measured_on() -> None:
    empty = PictureSet(root=Path(), class_names=("cat", "dog"), records=())
    assert part_to_measure(dict.fromkeys(("train", "val", "test"), empty), None, "x") == "test"
    assert part_to_measure(dict.fromkeys(("train", "val", "test"), empty), "validation", "x") == "val"
    assert part_to_measure({"train": empty}, None, "x") == "train"
    with pytest.raises(DataError, match="no test part; say which one with --part"):
        part_to_measure(dict.fromkeys(("train", "val"), empty), None, "x")


@pytest.mark.parametrize(
    ("text", "folders", "names", "labels"),
    [
        ("dog\ncat\n", ("cat", "dog"), ("dog", "cat"), {"cat": 1, "dog": 0}),
        ("wild dog\nbird\ncat\n", ("cat", "Wild_Dog"), ("wild dog", "bird", "cat"), {"cat": 2, "Wild_Dog": 0}),
        ("dog\ncat\n", ("0", "1"), ("dog", "cat"), {"0": 0, "1": 1}),
        ("dog\ncat\n", ("00", "01"), ("dog", "cat"), {"00": 0, "01": 1}),
    ],
)
def test_class_order_is_the_users(
    tmp_path: Path, text: str, folders: tuple[str, ...], names: tuple[str, ...], labels: dict[str, int]
) -> None:
    put(*(tmp_path / "photos" / name / "1.png" for name in folders))
    (tmp_path / "classes.txt").write_text(text)
    pictures = read_pictures(tmp_path / "photos", classes_file=tmp_path / "classes.txt")
    assert pictures.class_names == names
    assert {record.picture.parent.name: record.label for record in pictures.records if isinstance(record.picture, Path)} == labels
    assert list(pictures.labels) == sorted(pictures.labels)


def test_folders_with_words_and_synonyms(tmp_path: Path) -> None:
    put(tmp_path / "photos/n02/1.png", tmp_path / "photos/vulpes/2.png", tmp_path / "photos/7/3.png")
    (tmp_path / "classes.yaml").write_text("7: badger\nn02: [red fox, vulpes]\n")
    pictures = read_pictures(tmp_path / "photos", classes_file=tmp_path / "classes.yaml")
    assert named(pictures) == [("7/3.png", "badger"), ("n02/1.png", "red fox"), ("vulpes/2.png", "red fox")]
    model = read_pictures(tmp_path / "photos", class_names=["owl", "red fox", "badger"], classes_file=tmp_path / "classes.yaml")
    assert model.labels == (1, 1, 2)
    assert "'badger' is not a known class" in refused(
        tmp_path / "photos", class_names=["owl", "red fox"], classes_file=tmp_path / "classes.yaml"
    )
    put(tmp_path / "photos/wolf/1.png")
    assert "wolf is not a known class" in refused(tmp_path / "photos", classes_file=tmp_path / "classes.yaml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pets.xlsx", "is a file of no kind that lists pictures"),
        ("pets.json", "is a file of no kind that lists pictures"),
        ("pets.zip", "is a zip file, in which pictures are not read; promptmix data unpack it"),
        ("pets.png", "is a file; give a folder with one sub-folder a class"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    assert words in refused(tmp_path / name)


def test_pictures_without_labels_from_anywhere(tmp_path: Path) -> None:
    put(tmp_path / "new/a.png", tmp_path / "new/b.png", tmp_path / "c.png")
    (tmp_path / "list.csv").write_text("image\nnew/b.png\nc.png\n")
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        archive.add(tmp_path / "c.png", "d.png")
    found = list_any_pictures([tmp_path / "new", str(tmp_path / "list.csv"), f"{tmp_path}/*.tar", tmp_path / "c.png"])
    assert [str(picture) for picture in found] == [
        *(str(tmp_path / name) for name in ("new/a.png", "new/b.png", "c.png")),
        "d.tar/d.png",
    ]
    assert list_any_pictures(f"{tmp_path}/*.png") == [tmp_path / "c.png"]
    for sources, words in (
        ([], "no picture was given"),
        ([tmp_path / "d.tar", "gone.png"], "gone.png"),
        (["gone.csv"], "no file gone.csv"),
    ):
        with pytest.raises(DataError, match=words):
            list_any_pictures(sources)


def test_an_empty_archive_of_unlabelled_pictures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(DataError, match="holds no picture"):
        list_any_pictures(tmp_path / "d.tar")


def test_a_long_label_is_cut_in_messages(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"a picture")
    (tmp_path / "pets.csv").write_text(f"path,label\n0.png,{'x' * 100_000}\n", encoding="utf-8")
    with pytest.raises(DataError, match="is not a known class") as caught:
        read_parts(tmp_path / "pets.csv", class_names=["cat", "dog"])
    assert len(str(caught.value)) < 600
