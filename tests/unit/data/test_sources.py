from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from promptmix.data.images import PICTURE_SUFFIXES
from promptmix.data.sources import list_pictures, read_folder
from promptmix.errors import DataError


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def named(root: Path, paths: tuple[Path, ...] | list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def refused(folder: Path, class_names: list[str] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(folder, class_names)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_of_folders(tmp_path: Path) -> None:
    put(tmp_path / "class10/a.png", tmp_path / "class2/b.JPG", tmp_path / "class2/deep/er/a.webp", tmp_path / "Class1/fish.png")
    for noise in (".hidden/x.png", "class2/.b.png", "class2/.cache/x.png", "__MACOSX/class2/x.png", "class2/@eaDir/x.png"):
        put(tmp_path / noise)
    (tmp_path / "class2/notes.txt").write_text("no picture")
    (tmp_path / "README").write_text("no picture")
    pictures = read_folder(tmp_path)
    assert pictures.root == tmp_path
    assert pictures.class_names == ("Class1", "class2", "class10")
    assert named(tmp_path, pictures.pictures) == ["Class1/fish.png", "class2/b.JPG", "class2/deep/er/a.webp", "class10/a.png"]
    assert pictures.labels == (0, 1, 1, 2)


def test_the_order_of_the_folders_is_natural(tmp_path: Path) -> None:
    put(*(tmp_path / name / "x.png" for name in ("b10", "B9", "a", "10", "9", "b1")))
    assert read_folder(tmp_path).class_names == ("9", "10", "a", "b1", "B9", "b10")


def test_given_class_names_decide_the_labels(tmp_path: Path) -> None:
    put(tmp_path / "apple/1.png", tmp_path / "HOT_dog/2.png")
    pictures = read_folder(tmp_path, ["zebra", "hot dog", "Apple"])
    assert pictures.class_names == ("zebra", "hot dog", "Apple")
    assert [(record.picture.name, record.label) for record in pictures.records] == [("2.png", 1), ("1.png", 2)]
    assert pictures.counts() == (0, 1, 1)


def test_given_class_names_allow_a_single_folder(tmp_path: Path) -> None:
    put(tmp_path / "dog/1.png")
    assert read_folder(tmp_path, ["cat", "dog"]).labels == (1,)


def test_a_folder_that_is_no_known_class(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dgo/1.png")
    assert "dgo is not a known class; did you mean 'dog'" in refused(tmp_path, ["cat", "dog"])


def test_two_folders_of_one_class(tmp_path: Path) -> None:
    put(tmp_path / "hot_dog/1.png", tmp_path / "hot dog/1.png", tmp_path / "cat/1.png")
    assert "'hot dog' and 'hot_dog'" in refused(tmp_path)
    assert "are the same class 'hot dog'; merge" in refused(tmp_path, ["cat", "hot dog"])


def test_missing_folder_file_and_empty(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "nothing")
    put(tmp_path / "x.png")
    assert "is a file" in refused(tmp_path / "x.png")
    (tmp_path / "empty/.git").mkdir(parents=True)
    assert "is empty" in refused(tmp_path / "empty")


def test_pictures_without_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "x.png", tmp_path / "y.png")
    assert "holds 2 pictures but no class folders" in refused(tmp_path)


def test_a_class_folder_without_a_picture_is_named(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/photo.heic").write_bytes(b"?")
    assert f"class folder {tmp_path / 'dog'} holds no picture" in refused(tmp_path)


def test_one_class_folder(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png")
    assert "only one class folder ('cat')" in refused(tmp_path)


def test_a_folder_too_high_is_pointed_lower(tmp_path: Path) -> None:
    put(tmp_path / "photos/cat/1.png", tmp_path / "photos/dog/1.png")
    assert f"is {tmp_path / 'photos'} the folder you mean?" in refused(tmp_path)


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Train", "val", "test"), ("train", "validation"), ("train",), ("test", "val"), ("test",)]
)
def test_a_folder_split_into_train_and_test_is_pointed_to_train(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        put(tmp_path / part / "cat/1.png", tmp_path / part / "dog/1.png")
    message = refused(tmp_path)
    assert "is split into" in message
    assert str(tmp_path / parts[0]) in message


def test_classes_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path / "train/1.png", tmp_path / "test/1.png", tmp_path / "bus/deep/1.png")
    assert read_folder(tmp_path).class_names == ("bus", "test", "train")
    put(tmp_path / "toys/train/1.png", tmp_path / "toys/test/1.png")
    assert read_folder(tmp_path / "toys").class_names == ("test", "train")


def test_pictures_beside_the_class_folders_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dog/1.png", tmp_path / "stray.png")
    with caplog.at_level(logging.WARNING):
        assert len(read_folder(tmp_path)) == 2
    assert "1 pictures lie beside the class folders" in caplog.text


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dog/1.png")
    scan = os.scandir

    def forbidden(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    # Rights do not bind the superuser, who may well be running the tests.
    monkeypatch.setattr(os, "scandir", forbidden)
    assert f"{tmp_path / 'dog'} cannot be read: Permission denied" in refused(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "store/1.png", tmp_path / "photos/dog/2.png", tmp_path / "photos/dog/in/3.png")
    (tmp_path / "photos/cat").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "photos/dog/in/again").symlink_to(tmp_path / "photos/dog", target_is_directory=True)
    (tmp_path / "photos/dog/up").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos/dog/self").symlink_to("self")
    (tmp_path / "photos/dog/copy.png").symlink_to(tmp_path / "store/1.png")
    pictures = read_folder(tmp_path / "photos")
    assert named(tmp_path / "photos", pictures.pictures) == ["cat/1.png", "dog/2.png", "dog/copy.png", "dog/in/3.png"]


def test_a_broken_link_is_listed_so_that_reading_reports_it(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dog/1.png")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert (tmp_path / "dog/gone.png") in read_folder(tmp_path).pictures


def test_the_suffixes_are_ones_that_pillow_knows() -> None:
    assert set(Image.registered_extensions()) | {".pfm"} >= PICTURE_SUFFIXES


def test_list_files_folders_and_patterns_in_order(tmp_path: Path) -> None:
    put(*(tmp_path / name for name in ("z.png", "in/b.png", "in/a.jpg", "in/deep/c.png", "in/.hidden.png")))
    (tmp_path / "in/notes.txt").write_text("no picture")
    assert named(tmp_path, list_pictures([tmp_path / "z.png", str(tmp_path / "in")])) == [
        "z.png", "in/a.jpg", "in/b.png", "in/deep/c.png",
    ]  # fmt: skip
    assert named(tmp_path, list_pictures([str(tmp_path / "in/*.png"), str(tmp_path / "in/b.png")])) == ["in/b.png"]
    assert named(tmp_path, list_pictures([str(tmp_path / "in/*")])) == ["in/a.jpg", "in/b.png", "in/deep/c.png"]
    assert named(tmp_path, list_pictures(str(tmp_path / "**/*.png"))) == ["in/b.png", "in/deep/c.png", "z.png"]
    assert named(tmp_path, list_pictures([str(tmp_path / "**")])) == ["in/a.jpg", "in/b.png", "in/deep/c.png", "z.png"]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    put(tmp_path / "photo[1].png", tmp_path / "photo1.png")
    assert named(tmp_path, list_pictures([str(tmp_path / "photo[1].png")])) == ["photo[1].png"]


def test_a_file_named_by_hand_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    put(tmp_path / "upload.tmp")
    assert list_pictures([tmp_path / "upload.tmp"]) == [tmp_path / "upload.tmp"]


def test_two_links_to_one_picture_are_two_pictures_but_a_repeat_is_none(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    repeated = tmp_path / "circle" / "a.png"
    assert list_pictures([tmp_path / "a.png", tmp_path / "b.png", repeated]) == [tmp_path / "a.png", tmp_path / "b.png"]
    assert len(list_pictures([str(tmp_path / "**/*.png")])) == 2


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "photos/cat/1.png", tmp_path / "photos/dog/1.png")
    assert list_pictures(["~/photos/cat/*.png"]) == [tmp_path / "photos/cat/1.png"]
    assert read_folder(Path("~/photos")).root == tmp_path / "photos"


@pytest.mark.parametrize(("source", "message"), [("gone.png", "no picture, folder or pattern"), ("*.gif", "no picture matches")])
def test_a_source_that_matches_nothing_is_named(tmp_path: Path, source: str, message: str) -> None:
    put(tmp_path / "a.png")
    with pytest.raises(DataError, match=message) as caught:
        list_pictures([tmp_path / "a.png", str(tmp_path / source)])
    assert source in str(caught.value)


def test_no_source_at_all_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture was given"):
        list_pictures([])
    with pytest.raises(DataError, match="no picture matches"):
        list_pictures([tmp_path])


def test_a_link_back_up_is_no_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DataError, match="link back"):
        read_folder(tmp_path)
