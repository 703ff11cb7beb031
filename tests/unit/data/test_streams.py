"""Pictures one after the other are those of the whole listing, in its order, and what is wrong is told of in its place."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from promptmix.data.images import UnusablePicture, content_key
from promptmix.data.read import Columns, iter_any_pictures, list_any_pictures, state_of_sources
from promptmix.data.sources import iter_pictures, list_pictures
from promptmix.errors import ConfigError, DataError


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


NAMES = st.text("a-./0B_ ", min_size=1, max_size=9)


@given(st.sets(NAMES, max_size=12))
def test_a_folder_is_walked_in_the_order_of_its_paths(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = tmp_path_factory.mktemp("walk")
    for name in names:
        path = Path(os.path.normpath(f"{root}/{name.strip()}.png"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except (FileExistsError, NotADirectoryError):  # a folder and a file of one name
            continue
    hidden = [path for path in root.rglob("*.png") if any(piece.startswith(".") for piece in path.relative_to(root).parts)]
    wanted = sorted(
        (path for path in root.rglob("*.png") if path.is_file() and path not in hidden), key=lambda path: path.as_posix()
    )
    if wanted:
        assert list(iter_pictures(root)) == wanted


def test_a_picture_comes_once_whatever_is_named_beside_it(tmp_path: Path) -> None:
    one, two = write_picture(tmp_path / "in/a.png"), write_picture(tmp_path / "in/deep/b.png")
    for sources in (
        [tmp_path / "in", tmp_path / "in"],
        [tmp_path / "in", one],
        [tmp_path / "in", tmp_path / "in/deep"],
        [tmp_path / "in", f"{tmp_path}/in/*"],
        [f"{tmp_path}/**/*.png", tmp_path / "in"],
    ):
        assert list_pictures(sources) == [one, two]
    assert list_pictures([two, tmp_path / "in"]) == [two, one]
    assert list_pictures([tmp_path / "in/deep", tmp_path / "in"]) == [two, one]
    other = tmp_path / "in/notes.tmp"
    other.write_bytes(one.read_bytes())
    assert list_pictures([tmp_path / "in", other]) == [one, two, other]


def test_what_is_missing_is_told_of_before_anything_is_walked(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.png")
    with pytest.raises(DataError, match="there is no picture, folder or pattern"):
        next(iter_pictures([tmp_path / "in", tmp_path / "gone"]))


def test_pictures_come_as_they_are_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / f"{number}/a.png")
    pictures = iter_pictures(tmp_path)
    assert next(pictures) == tmp_path / "0/a.png"
    write_picture(tmp_path / "1/b.png")  # not read yet
    assert [path.relative_to(tmp_path).as_posix() for path in pictures] == ["1/a.png", "1/b.png", "2/a.png"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_row_that_names_no_picture_is_told_of_in_its_place(tmp_path: Path, suffix: str) -> None:
    write_picture(tmp_path / "a.png")
    cells = ["a.png", "", "https://a.org/b.png", "gone.png", "a.png"]
    lines = (
        [f'{{"path": "{cell}", "label": "x"}}' for cell in cells]
        if suffix == "jsonl"
        else ["path,label"] + [f"{cell},x" for cell in cells]
    )
    (tmp_path / f"list.{suffix}").write_text("\n".join(lines))
    found = list(iter_any_pictures(tmp_path / f"list.{suffix}"))
    assert [found[place] for place in (0, 3, 4)] == [tmp_path / name for name in ("a.png", "gone.png", "a.png")]
    for place, word in ((1, "has no picture"), (2, "is an address")):
        assert isinstance(found[place], UnusablePicture)
        with pytest.raises(DataError, match=word):
            content_key(found[place])


def test_a_parquet_file_of_paths(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    write_picture(tmp_path / "a.png")
    names = ["a.png", None, *["a.png"] * 2500]
    parquet.write_table(pyarrow.table({"path": names}), tmp_path / "list.parquet", row_group_size=700)
    found = list(iter_any_pictures(tmp_path / "list.parquet"))
    assert len(found) == len(names)
    assert isinstance(found[1], UnusablePicture) and found[1].name == "list.parquet row 1"
    assert {found[0], *found[2:]} == {tmp_path / "a.png"}


def test_a_damaged_archive_does_not_stop_those_after_it(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for name in ("x", "y"):
                archive.add(picture, f"{name}.png")
    content = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[: len(content) // 8 * 3 // 512 * 512 + 100])
    found = list(iter_any_pictures(f"{tmp_path}/*.tar"))
    assert [str(one) for one in found][:2] == ["0.tar/x.png", "0.tar/y.png"]
    assert [str(one) for one in found][-3:] == ["1.tar", "2.tar/x.png", "2.tar/y.png"]
    with pytest.raises(DataError, match=r"1\.tar is no tar file, or is cut off or damaged"):
        found[-3].read()  # type: ignore[union-attr]


def test_several_kinds_one_after_the_other(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "in/a.png")
    (tmp_path / "list.csv").write_text("path\nin/a.png\n")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(picture, "b.png")
    sources = [tmp_path / "list.csv", tmp_path / "in", tmp_path / "all.tar"]
    assert list(dict.fromkeys(iter_any_pictures(sources))) == list_any_pictures(sources)
    with pytest.raises(ConfigError, match="no column"):
        list(iter_any_pictures(tmp_path / "list.csv", Columns(image="file")))
    with pytest.raises(DataError, match="no picture was given"):
        list(iter_any_pictures([]))
    (tmp_path / "empty.csv").write_text("path\n")
    with pytest.raises(DataError, match="has no rows"):
        list(iter_any_pictures(tmp_path / "empty.csv"))


def test_the_state_of_a_source_changes_with_its_files(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.png")
    table = tmp_path / "list.csv"
    table.write_text("path\nin/a.png\n")
    before = state_of_sources([str(table)])
    assert state_of_sources([str(table)]) == before
    table.write_text("path\nin/b.png\nin/c.png\n")
    assert state_of_sources([str(table)]) != before
    assert state_of_sources([str(tmp_path / "in")]) == state_of_sources([])
