from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from promptmix.data.records import PictureSet, Record
from promptmix.data.splits import read_split, split_hash, write_split
from promptmix.errors import DataError

NAMES = ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, name in enumerate(("cat/1.jpg", "cat/ü 2.jpg", "dog/1.jpg", "dog/deep/2.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"picture %d" % number)
    return root


def part(root: Path, *rows: tuple[str, int]) -> PictureSet:
    records = tuple(Record(picture=root / name, label=label) for name, label in rows)
    return PictureSet(root=root, class_names=NAMES, records=records)


def parts_of(root: Path) -> dict[str, PictureSet]:
    return {"test": part(root, ("dog/1.jpg", 1)), "train": part(root, ("dog/deep/2.jpg", 1), ("cat/ü 2.jpg", 0))}


def edited(path: Path, change: Any) -> None:
    contents = json.loads(path.read_text(encoding="utf-8"))
    change(contents)
    path.write_text(json.dumps(contents), encoding="utf-8")


def test_a_split_is_read_as_it_was_written(root: Path, tmp_path: Path) -> None:
    path, parts = tmp_path / "split.json", parts_of(root)
    written = write_split(path, parts)
    again = read_split(path, root)
    assert again == parts
    assert list(again) == ["train", "test"]
    assert written == split_hash(parts) == split_hash(again)


def test_the_file_says_what_it_is(root: Path, tmp_path: Path) -> None:
    hashed = write_split(tmp_path / "split.json", parts_of(root))
    contents = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(b"picture 2").hexdigest()[:16]
    assert contents["parts"]["test"] == [["dog/1.jpg", 1, digest]]
    assert contents["class_names"] == ["cat", "dog"]
    assert (contents["format"], contents["version"], contents["split_hash"]) == ("promptmix-split", 1, hashed)
    assert str(root) not in json.dumps(contents)


def test_the_hash_knows_files_labels_parts_and_class_order_but_not_place_or_order(root: Path, tmp_path: Path) -> None:
    parts = parts_of(root)
    expected = split_hash(parts)
    moved = root.rename(tmp_path / "elsewhere")
    parts = parts_of(moved)
    assert split_hash(parts) == expected
    assert split_hash({"train": parts["train"].subset([1, 0]), "test": parts["test"]}) == expected
    others = [
        {"train": parts["train"]},
        {"train": parts["train"], "val": parts["test"]},
        {"train": part(moved, ("dog/deep/2.jpg", 1), ("cat/ü 2.jpg", 1)), "test": parts["test"]},
        {name: PictureSet(root=moved, class_names=("dog", "cat"), records=one.records) for name, one in parts.items()},
    ]
    assert expected not in {split_hash(other) for other in others}
    (moved / "dog/1.jpg").write_bytes(b"another picture")
    assert split_hash(parts) != expected


def test_a_missing_and_a_changed_picture_are_named(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split(path, parts_of(root))
    (root / "dog/1.jpg").write_bytes(b"picture 9")
    with pytest.raises(DataError, match=r"dog/1\.jpg is not the picture"):
        read_split(path, root)
    (root / "dog/1.jpg").unlink()
    with pytest.raises(DataError, match=r"dog/1\.jpg, named in .* is missing"):
        read_split(path, root)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "cat/../../secret.jpg", "/etc/passwd", "..\\secret.jpg", "\\\\host\\share.jpg"]
)
def test_a_path_out_of_the_root_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "split.json"
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    write_split(path, parts_of(root))
    edited(path, lambda contents: contents["parts"]["test"][0].__setitem__(0, name))
    with pytest.raises(DataError, match="leads out of the folder"):
        read_split(path, root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["parts"]["test"][0].__setitem__(1, 0), "changed after it was written"),
        (lambda c: c["class_names"].reverse(), "changed after it was written"),
        (lambda c: c["parts"].pop("test"), "changed after it was written"),
        (lambda c: c["parts"]["train"].append(c["parts"]["test"][0]), r"'dog/1.jpg' is listed twice \(train and test\)"),
        (lambda c: c.__setitem__("version", 2), "version 1: version"),
        (lambda c: c.__setitem__("format", "coop"), "format"),
        (lambda c: c.__setitem__("extra", 1), "extra"),
        (lambda c: c.pop("split_hash"), "split_hash"),
        (lambda c: c["parts"].__setitem__("valid", []), "parts"),
        (lambda c: c["parts"]["test"][0].__setitem__(1, "1"), r"parts\.test\.0\.1"),
    ],
)
def test_reading_is_strict(root: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "split.json"
    write_split(path, parts_of(root))
    edited(path, change)
    with pytest.raises(DataError, match=message) as caught:
        read_split(path, root)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_split(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_split(tmp_path / "gone.json", root)
    (tmp_path / "split.json").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="not a split file"):
        read_split(tmp_path / "split.json", root)


def test_writing_is_strict(root: Path, tmp_path: Path) -> None:
    path, train = tmp_path / "split.json", part(root, ("cat/1.jpg", 0))
    other_classes = PictureSet(root=root, class_names=("dog", "cat"), records=train.records)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for parts, message in (
        ({}, "at least one part"),
        ({"valid": train}, "no part 'valid'; did you mean 'val'"),
        ({"train": train, "test": other_classes}, "part 'test' .* other classes"),
        ({"train": train, "test": train}, "listed twice"),
        ({"train": part(root, ("../secret.jpg", 0))}, "leads out of the folder"),
        ({"train": part(root, (str(tmp_path / "secret.jpg"), 0))}, "does not lie in"),
        ({"train": part(root, ("cat/gone.jpg", 0))}, "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            write_split(path, parts)
    assert not path.exists()
