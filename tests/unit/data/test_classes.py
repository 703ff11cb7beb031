"""Files of classes: their order, what goes into prompts, which labels mean which class."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptmix.data.classes import ClassList, read_classes_file
from promptmix.errors import DataError


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_classes_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_file_has_a_class_a_line(tmp_path: Path) -> None:
    classes = read_classes_file(written(tmp_path, "classes.txt", "\ufeffzebra\r\n\r\nred_fox \r\nBadger: the one\r\n"))
    assert classes.names == ("zebra", "red fox", "Badger: the one")
    assert [classes.place(label) for label in ("Zebra", "RED  fox", "red_fox", 0, "2", "002", 3, "fox")] == [
        0,
        1,
        1,
        0,
        2,
        2,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.yaml", "# labels\nno: Norway spruce\nn02: [red fox, fox, vulpes]\n07: a badger's sett\nplain:\n"),
        ("c.json", '{\n\t"no": "Norway spruce", "n02": ["red fox", "fox", "vulpes"], "07": "a badger\'s sett", "plain": null}'),
    ],
)
def test_a_mapping_says_what_labels_mean(tmp_path: Path, name: str, text: str) -> None:
    classes = read_classes_file(written(tmp_path, name, text))
    assert classes.names == ("Norway spruce", "red fox", "a badger's sett", "plain")
    meant = {"no": 0, "norway_spruce": 0, "n02": 1, "Vulpes": 1, "red fox": 1, "plain": 3}
    assert {label: classes.place(label) for label in meant} == meant
    # A label of the list is itself a number, so numbers are labels and not places.
    assert [classes.place(label) for label in ("07", 7, 0, "0", 2)] == [2, 2, None, None, None]


def test_numbers_as_labels_need_not_start_at_0(tmp_path: Path) -> None:
    classes = read_classes_file(written(tmp_path, "c.yml", "2: dog\n1: cat\n"))
    assert classes.names == ("dog", "cat")
    assert [classes.place(label) for label in (0, 1, 2, "1", "02")] == [None, 1, 0, 1, 0]


@pytest.mark.parametrize(("name", "text"), [("c.yaml", "- zebra\n- 5\n- yes\n"), ("c.json", '["zebra", "5", "yes"]')])
def test_a_list_has_the_order_alone(tmp_path: Path, name: str, text: str) -> None:
    assert read_classes_file(written(tmp_path, name, text)).names == ("zebra", "5", "yes")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "", "no class names"),
        ("c.txt", "cat\n", "only one class"),
        ("c.txt", "cat\nCat\n", "same name"),
        ("c.yaml", "a: cat\nb: cat\n", "class 'cat' is there twice"),
        ("c.yaml", "a: [cat, pet]\nb: [dog, pet]\n", "'pet' means two classes, 'cat' and 'dog'"),
        ("c.yaml", "a: {b: c}\n", "nothing deeper"),
        ("c.yaml", "just text", "it must hold"),
        ("c.yaml", "a: [b\n", "not YAML"),
        ("c.yaml", "a: &x [b]\nc: !!python/object:os.system [d, *x]\n", "nothing deeper"),
        ("c.json", '{"a": {"b": "c"}, "d": "e"}', "nothing deeper"),
        ("c.json", '{"a": "x", "b": "y", "a": "x"}', "there twice"),
        ("c.json", '{"a": true}', "it must hold"),
        ("c.json", "[" * 100_000, "not JSON"),
        ("c.json", "3", "it must hold"),
    ],
)
def test_files_that_are_no_list_of_classes(tmp_path: Path, name: str, text: str, words: str) -> None:
    message = refused(written(tmp_path, name, text))
    assert words in message
    assert name in message


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "check the path" in refused(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes("Füchse\nDachse\n".encode("latin-1"))
    assert "not UTF-8 (byte 1)" in refused(tmp_path / "latin.txt")
    monkeypatch.setattr("promptmix.data.classes._LARGEST_FILE", 10)
    assert "more than 10 bytes" in refused(written(tmp_path, "long.txt", "cat\ndog\nbadger\n"))


def test_numbers_may_be_no_places() -> None:
    assert ClassList({"cat": (), "dog": ()}, numbers=False).place(1) is None


def test_an_empty_label_is_told_with_its_file(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "classes.yaml", "null: cat\ndog: dog\n"))
    assert "classes.yaml" in message
    assert "a label is empty, that of 'cat'" in message
