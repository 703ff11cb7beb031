"""Tables of pictures: what is taken for what, and what is said of every way in which a table can be wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptmix.data import parquet as parquet_files
from promptmix.data.images import content_key, open_picture
from promptmix.data.listing import Columns
from promptmix.data.parquet import ParquetPicture
from promptmix.data.read import read_parts, read_pictures
from promptmix.data.records import PictureSet
from promptmix.data.splits import read_split, write_split
from promptmix.data.tables import list_table
from promptmix.errors import ConfigError, DataError, PromptMixError


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with pictures 0.png to 5.png, in which tables can be written."""
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def table(folder: Path, text: str, name: str = "pets.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def described(pictures: PictureSet) -> list[tuple[str, str]]:
    return [
        (record.picture.relative_to(pictures.root).as_posix() if isinstance(record.picture, Path) else record.picture.name, name)
        for record in pictures.records
        for name in [pictures.class_names[record.label]]
    ]


def refused(path: Path, kind: type[PromptMixError] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_parts(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TWO = [("0.png", "cat"), ("1.png", "dog")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pets.csv", "path,label\n0.png,cat\n1.png,dog\n"),
        ("pets.CSV", "\ufeffFilename,Class\r\n0.png,cat\r\n\r\n1.png,dog"),
        ("pets.csv", 'note,label,image\n"x, ""y""\nz",cat,0.png\n,dog,"1.png"\n'),
        ("pets.csv", "path;label\n0.png;cat\n1.png;dog\n"),
        ("pets.tsv", "target\tfile_name\ncat\t0.png\ndog\t1.png\n"),
        ("pets.csv", "path,label,class_name\n0.png,0,cat\n1.png,1,dog\n"),
        ("pets.csv", "path,label\n 0.png , cat \n./1.png,dog\n0.png,cat\n"),
        ("pets.jsonl", '{"image": "0.png", "label": "cat"}\n\n{"label": "dog", "image": "1.png", "more": {"a": [1]}}\n'),
        ("pets.ndjson", '\ufeff{"path": "0.png", "category": "cat"}\r\n{"path": "1.png", "category": "dog"}'),
    ],
)
def test_pictures_and_labels_are_found(photos: Path, name: str, text: str) -> None:
    parts = read_parts(table(photos, text, name))
    assert list(parts) == ["train"]
    assert described(parts["train"]) == TWO
    assert parts["train"].root == photos


def test_columns_can_be_named(photos: Path) -> None:
    path = table(photos, "path,thumb,label,colour\n0.png,2.png,x,red\n1.png,3.png,y,blue\n")
    pictures = read_pictures(path, columns=Columns(image="thumb", label="colour"))
    assert described(pictures) == [("2.png", "red"), ("3.png", "blue")]
    assert pictures.class_names == ("blue", "red")
    message = refused(path, ConfigError, columns=Columns(label="color"))
    assert "no column 'color'; did you mean 'colour'?" in message


def test_a_column_of_parts(photos: Path) -> None:
    rows = ["0.png,dog,Train", "1.png,cat,training", "2.png,cat,validation", "3.png,dog,test", "4.png,cat,dev"]
    parts = read_parts(table(photos, "path,label,split\n" + "\n".join(rows)))
    assert list(parts) == ["train", "val", "test"]
    assert described(parts["val"]) == [("2.png", "cat"), ("4.png", "cat")]
    assert {part.class_names for part in parts.values()} == {("cat", "dog")}
    assert {part.root for part in parts.values()} == {photos}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["0.png,cat,train", "1.png,dog,tset"], "line 3: 'tset' is no part; did you mean 'test'?"),
        (["0.png,cat,train", "1.png,dog,"], "line 3 is in no part, but others are"),
        (
            ["0.png,cat,train", "1.png,dog,train", "2.png,doge,test"],
            "line 4: label 'doge' is not a known class; did you mean 'dog'?",
        ),
        (["0.png,cat,train", "1.png,dog,train", "0.png,cat,test"], "is in part test here but in train in pets.csv line 2"),
    ],
)
def test_parts_that_cannot_be(photos: Path, rows: list[str], words: str) -> None:
    assert words in refused(table(photos, "path,label,part\n" + "\n".join(rows)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no head"),
        (",,\n", "has no head"),
        ("path,label\n", "has no rows"),
        ("0.png,cat\n1.png,dog\n", "(its columns are 0.png, cat); say which with --image-column"),
        ("path,kind\n0.png,cat\n", "has no column of labels that is known by its name (its columns are path, kind)"),
        ("path,label,path\n0.png,cat,1.png\n", "two columns 'path'"),
        ("path,label\n0.png,cat\n1.png\n", "line 3 has 1 cells, the first line has 2"),
        ("path,label\n0.png,cat\n1.png,dog, the big one\n", "line 3 has 3 cells"),
        ("path,label\n0.png,cat\n,dog\n", "line 3 has no picture"),
        ("path,label\n0.png,cat\n1.png, \n", "line 3 has no label"),
        ("path,label\n0.png,cat\n1.png,nan\n", "line 3 has no label"),
        ("path,label\n0.png,cat\n9.png,dog\n8.png,dog\n", "line 3: there is no picture"),
        ("path,label\n0.png,cat\n.,dog\n", "line 3: there is no picture"),
        (
            "path,label\n0.png,cat\nhttps://x.org/a.jpg,dog\n",
            "line 3: https://x.org/a.jpg is an address; pictures are not fetched",
        ),
        ("path,label\n0.png,cat\ns3://bucket/a.jpg,dog\n", "is an address"),
        ('path,label\n0.png,cat\n"data:image/png;base64,AAAA",dog\n', "is an address"),
        ("path,label\n0.png,cat\n0.png,dog\n", "is 'dog' here but 'cat' in pets.csv line 2; a picture has one class"),
        ("path,label\n0.png,cat\n1.png,cat\n", "only one class ('cat')"),
        ("path,label\n0.png,cat\n1.png,Cat\n", "are the same name"),
        (
            "path,label\n0.png,0\n1.png,1\n",
            "line 2: label '0' is a number, which means nothing to a text tower; name the classes",
        ),
        ("path,label\n0.png,0.0\n1.png,1.0\n", "is a number"),
        ('path,label\n"0.png,cat\n', "is no row of a table"),
        ("path,label\n0.png,c\x00at\n", "control character"),
    ],
)
def test_tables_that_cannot_be_used(photos: Path, text: str, words: str) -> None:
    message = refused(table(photos, text))
    assert words in message
    assert "pets.csv" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ('{"path": "0.png", "label": "cat"}\n{"path": 3, "label": "dog"}', "line 2 has no picture"),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png"}', "line 2 has no label"),
        (
            '{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": true}',
            "label 'True' is neither a name nor a whole number",
        ),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": 1.5}', "label '1.5' is neither"),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": Infinity}', "label 'inf' is neither"),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": ["dog"]}', "is neither"),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": -1}', "label -1 is no number of a class"),
        ('{"path": "0.png", "label": "cat"}\n{"path": "1.png", "label": 1}', "label 1 is a number"),
        ('{"path": "0.png", "label": "cat"}\n["1.png", "dog"]', "line 2 is no JSON object"),
        ('{"path": "0.png",\n', "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_json_lines_that_cannot_be_used(photos: Path, text: str, words: str) -> None:
    assert words in refused(table(photos, text, "pets.jsonl"))


def test_texts_that_are_no_utf8_and_lines_without_end(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "latin.csv").write_bytes("path,label\n0.png,Füchse\n".encode("latin-1"))
    assert "not UTF-8" in refused(photos / "latin.csv")
    (photos / "wide.csv").write_bytes("path,label\n0.png,cat\n".encode("utf-16"))
    assert "not UTF-8" in refused(photos / "wide.csv")
    monkeypatch.setattr("promptmix.data.tables._LONGEST_LINE", 50)
    assert "line 2 has more than 50 characters" in refused(table(photos, "path,label\n" + "x" * 60 + "\n"))
    assert "line 1 has more than 50 characters" in refused(table(photos, '{"path":"' + "x" * 60, "a.jsonl"))
    monkeypatch.setattr("promptmix.data.tables.MOST_ROWS", 1)
    assert "more than 1 rows" in refused(table(photos, "path,label\n0.png,cat\n1.png,dog\n"))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path / 'gone.csv'}" in refused(tmp_path / "gone.csv")


def test_how_many_pictures_are_missing_is_said(photos: Path) -> None:
    message = refused(table(photos, "path,label\n0.png,cat\n7.png,dog\n8.png,dog\n"))
    assert (
        f"pets.csv line 3: there is no picture {photos / '7.png'} (and 1 more); paths count from the folder of pets.csv"
        in message
    )


def test_paths_from_anywhere(photos: Path) -> None:
    deep = photos / "lists" / "new"
    deep.mkdir(parents=True)
    (deep / "in").mkdir()
    (deep / "in" / "a.png").write_bytes(png(9))
    path = table(deep, f"path,label\n../../0.png,cat\n{photos / '1.png'},dog\nin\\a.png,dog\n")
    pictures = read_pictures(path)
    assert pictures.root == photos.resolve()
    assert described(pictures) == [("0.png", "cat"), ("1.png", "dog"), ("lists/new/in/a.png", "dog")]
    # However it is written, it is the same picture.
    twice = table(deep, f"path,label\n../../0.png,cat\n{photos / '0.png'},dog\n")
    assert "a picture has one class" in refused(twice)


def test_a_table_given_by_a_path_from_here(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(photos, "path,label\n0.png,cat\n1.png,dog\n")
    monkeypatch.chdir(photos.parent)
    pictures = read_pictures(Path(photos.name) / "pets.csv")
    assert (pictures.root, described(pictures)) == (Path(photos.name), TWO)
    monkeypatch.chdir(photos)
    assert described(read_pictures("pets.csv")) == TWO


def test_numbers_with_a_file_of_classes(photos: Path) -> None:
    (photos / "classes.txt").write_text("dog\nunused\ncat\n")
    path = table(photos, "path,label\n0.png,2\n1.png,0.0\n")
    pictures = read_pictures(path, classes_file=photos / "classes.txt")
    assert pictures.class_names == ("dog", "unused", "cat")
    assert described(pictures) == TWO
    assert "numbers go from 0 to 2" in refused(table(photos, "path,label\n0.png,3\n"), classes_file=photos / "classes.txt")
    # A model's own order says nothing about what the numbers of a table were meant to be.
    assert "is a number" in refused(path, class_names=["dog", "unused", "cat"])


def test_classes_with_words_and_synonyms_in_the_order_of_a_model(photos: Path) -> None:
    (photos / "classes.yaml").write_text("n1: [a photo cat, kitty]\nn2: dog\n")
    path = table(photos, "path,label\n0.png,Kitty\n1.png,n2\n2.png,n1\n")
    pictures = read_pictures(path, class_names=["dog", "bird", "a photo cat"], classes_file=photos / "classes.yaml")
    assert pictures.class_names == ("dog", "bird", "a photo cat")
    assert pictures.labels == (2, 0, 2)
    message = refused(path, class_names=["dog", "bird"], classes_file=photos / "classes.yaml")
    assert "is not a known class" in message


def test_unlabelled_tables_are_listed(photos: Path) -> None:
    listing = list_table(table(photos, "path\n0.png\n1.png\n"), labelled=False)
    assert [one.picture for one in listing.pictures] == [photos / "0.png", photos / "1.png"]


# ---------------------------------------------------------------------------------------------------------------- Parquet


@pytest.fixture
def arrow() -> Any:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet here")
    import pyarrow.parquet

    return pyarrow


def parquet(arrow: Any, path: Path, columns: dict[str, Any], notes: object = None, rows_a_group: int = 2) -> Path:
    built = arrow.table(columns)
    if notes is not None:
        built = built.replace_schema_metadata({"huggingface": json.dumps(notes)})
    arrow.parquet.write_table(built, path, row_group_size=rows_a_group)
    return path


@pytest.mark.parametrize("shape", ["bytes", "struct"])
def test_pictures_inside_parquet_are_read_where_they_lie(arrow: Any, tmp_path: Path, shape: str) -> None:
    contents = [png(shade) for shade in range(5)]
    cells = contents if shape == "bytes" else [{"bytes": content, "path": f"{n}.png"} for n, content in enumerate(contents)]
    path = parquet(arrow, tmp_path / "pets.parquet", {"image": cells, "label": ["b", "a", "b", "a", "b"]})
    pictures = read_pictures(path)
    assert pictures.class_names == ("a", "b")
    assert pictures.labels == (1, 0, 1, 0, 1)
    assert [str(picture) for picture in pictures.pictures] == [f"pets.parquet/{number}" for number in range(5)]
    assert len(set(pictures.pictures)) == 5
    for picture, content in zip(pictures.pictures, contents, strict=True):
        again = pickle.loads(pickle.dumps(picture))  # noqa: S301  # as it goes to a worker process
        assert again == picture
        assert again.read() == content
        assert content_key(picture) == content_key(content)
        assert open_picture(picture).size == (4, 4)
    backwards = [4, 0, 3, 1, 2] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: pictures.pictures[place].read(), backwards)) == [
            contents[place] for place in backwards
        ]  # type: ignore[union-attr]


def test_parquet_with_paths_and_numbers_that_have_names(arrow: Any, photos: Path) -> None:
    columns = {"file_name": ["0.png", "1.png"], "label": [0, 1], "split": ["train", "train"]}
    path = parquet(arrow, photos / "pets.parquet", columns)
    assert "row 0: label 0 is a number" in refused(path)
    (photos / "classes.txt").write_text("cat\ndog\n")
    assert described(read_pictures(path, classes_file=photos / "classes.txt")) == TWO
    notes = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["zebra", "cat"]}}}}
    noted = read_pictures(parquet(arrow, photos / "pets.parquet", columns, notes))
    assert noted.class_names == ("zebra", "cat")
    short = {"info": {"features": {"label": {"names": ["zebra"]}}}}
    assert "row 1: label 1 has no name" in refused(parquet(arrow, photos / "pets.parquet", columns, short))


def test_parquet_that_cannot_be_used(arrow: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "broken.parquet").write_bytes(b"PAR1 no")
    assert "is no Parquet file that can be read" in refused(photos / "broken.parquet")
    path = photos / "pets.parquet"
    assert "holds int64, not pictures" in refused(parquet(arrow, path, {"image": [1, 2], "label": ["a", "b"]}))
    assert "has no column of labels" in refused(parquet(arrow, path, {"image": [png(), png()]}))
    assert "has no rows" in refused(
        parquet(arrow, path, {"image": arrow.array([], "binary"), "label": arrow.array([], "string")})
    )
    assert "row 1 has no label" in refused(parquet(arrow, path, {"image": [png(), png()], "label": ["a", None]}))
    monkeypatch.setattr("promptmix.data.parquet._LARGEST_GROUP", 100)
    assert "write it anew with 100 rows a group" in refused(parquet(arrow, path, {"image": [png(), png()], "label": ["a", "b"]}))


def test_cells_without_bytes_tell_when_they_are_read(arrow: Any, photos: Path) -> None:
    cells = [{"bytes": None, "path": "3.png"}, {"bytes": None, "path": None}, {"bytes": None, "path": "https://x.org/a.png"}]
    cells.append({"bytes": None, "path": "gone.png"})
    path = parquet(arrow, photos / "pets.parquet", {"image": cells, "label": ["a", "b", "a", "b"]})
    beside, empty, address, gone = read_pictures(path).pictures
    assert content_key(beside) == content_key(png(3))
    for picture, words in (
        (empty, "holds no picture"),
        (address, "holds no picture"),
        (gone, "cannot be read; is it elsewhere?"),
    ):
        with pytest.raises(DataError, match=words):
            open_picture(picture)


def test_a_parquet_file_that_changes(arrow: Any, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"image": [png(1), png(2)], "label": ["a", "b"]}
    path = parquet(arrow, tmp_path / "pets.parquet", columns)
    first, second = read_pictures(path).pictures
    assert content_key(first) == content_key(png(1))
    # The same pictures and labels in the other order, and another size or not: what was listed as row 0 is another picture now.
    parquet(arrow, path, {name: cells[::-1] for name, cells in columns.items()})
    os.utime(path, ns=(0, 0))
    for picture, row in ((first, 0), (second, 1)):
        with pytest.raises(
            DataError, match=rf"pets\.parquet/{row}: .*pets\.parquet has changed since it was listed; start again"
        ):
            content_key(picture)
    again = read_pictures(path)
    assert [(content_key(record.picture), again.class_names[record.label]) for record in again.records] == [
        (content_key(png(2)), "b"),
        (content_key(png(1)), "a"),
    ]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        content_key(first)


def test_groups_of_rows_are_kept_as_far_as_they_have_room(arrow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(arrow, tmp_path / "pets.parquet", {"image": [png(shade) for shade in range(12)], "label": ["a", "b"] * 6})
    pictures = read_pictures(path).pictures
    unpacked: list[int] = []

    def counted(file: Path, column: str, group: int) -> Any:
        unpacked.append(group)
        return unpack(file, column, group)

    unpack = parquet_files._parquet_group
    monkeypatch.setattr(parquet_files, "_parquet_group", counted)

    def read(*places: int) -> list[int]:
        unpacked.clear()
        for place in places:
            assert content_key(pictures[place]) == content_key(png(place))
        return list(unpacked)

    parquet_files._unpacked.cache_clear()
    shuffled = [7, 0, 11, 3, 9, 5, 1, 6, 10, 2, 8, 4]
    assert sorted(read(*shuffled)) == [0, 1, 2, 3, 4, 5]
    assert read(*shuffled) == []
    size = unpack(path, "image", 0).get_total_buffer_size()
    monkeypatch.setattr(parquet_files, "_MOST_KEPT", 2 * size + size // 2)
    parquet_files._unpacked.cache_clear()
    assert read(0, 2, 1, 4, 0, 2, 3) == [0, 1, 2, 1]  # group 2 pushes out 1, which was used longer ago than 0
    # A group that is larger than all the room is kept as long as it is the last one.
    monkeypatch.setattr(parquet_files, "_MOST_KEPT", 1)
    parquet_files._unpacked.cache_clear()
    assert read(*range(12)) == [0, 1, 2, 3, 4, 5]
    assert len(parquet_files._unpacked(os.getpid())._groups) == 1


def test_a_split_of_a_parquet_file_is_read_in_the_order_of_the_file(arrow: Any, tmp_path: Path) -> None:
    path = parquet(arrow, tmp_path / "pets.parquet", {"image": [png(shade) for shade in range(12)], "label": ["a", "b"] * 6})
    pictures = read_pictures(path)
    mixed = pictures.subset([7, 0, 11, 3, 9, 5, 1])
    write_split(tmp_path / "split.json", {"train": mixed})
    stored = [picture for picture in pictures.pictures if isinstance(picture, ParquetPicture)]
    assert read_split(tmp_path / "split.json", tmp_path, stored) == {"train": pictures.subset([0, 1, 3, 5, 7, 9, 11])}


def test_none_and_null_are_names(photos: Path) -> None:
    pictures = read_pictures(table(photos, "path,label\n0.png,none\n1.png,scratch\n2.png,NA\n3.png,null\n4.png,n/a\n"))
    assert [name for _, name in described(pictures)] == ["none", "scratch", "NA", "null", "n/a"]
    assert "line 3 has no label" in refused(table(photos, "path,label\n0.png,none\n1.png,NaN\n"))
    assert "line 3 has no label" in refused(
        table(photos, '{"path":"0.png","label":"none"}\n\n{"path":"1.png","label":null}', "a.jsonl")
    )


def test_without_pyarrow_its_install_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (photos / "pets.parquet").write_bytes(b"")
    assert 'pip install "promptmix[data]"' in refused(photos / "pets.parquet", ConfigError)


def test_values_that_many_rows_share_count_for_each_of_them(arrow: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.effect_noise((64, 64), 90)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    columns: dict[str, list[Any]] = {"image": [stream.getvalue(), png()] * 500, "label": ["a" * 100, "b"] * 500}
    path = parquet(arrow, photos / "pets.parquet", columns, rows_a_group=1000)
    limit = 100_000  # of pictures of 4 kB, of which the file holds one
    assert path.stat().st_size < limit
    monkeypatch.setattr(parquet_files, "_LARGEST_GROUP", limit)
    monkeypatch.setattr(parquet_files, "_MOST_AT_ONCE", limit)
    pictures = read_pictures(path).pictures
    for one in pictures[:2]:
        with pytest.raises(DataError, match=r"row group 0 holds .* bytes of pictures or more"):
            open_picture(one)
    monkeypatch.setattr(parquet_files, "_MOST_TEXT", 10_000)
    assert "'label' holds more than 10,000 characters" in refused(path)
    monkeypatch.undo()
    again = read_pictures(path.rename(photos / "again.parquet"))
    assert content_key(again.pictures[-1]) == content_key(png())


def test_a_cell_names_no_pipe_or_device(arrow: Any, photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    cells = [{"bytes": None, "path": name} for name in ("pipe.png", "/dev/zero", "0.png")]
    path = parquet(arrow, photos / "pets.parquet", {"image": cells, "label": ["a", "b", "b"]})
    pipe, zero, good = read_pictures(path).pictures
    for one in (pipe, zero):
        with pytest.raises(DataError, match="is not a file"):
            open_picture(one)
    assert content_key(good) == content_key(png(0))


def test_a_file_that_a_cell_names_has_the_limit_of_pictures(arrow: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [{"bytes": None, "path": f"{number}.png"} for number in range(2)]
    path = parquet(arrow, photos / "pets.parquet", {"image": cells, "label": ["a", "b"]})
    monkeypatch.setattr("promptmix.data.images.LARGEST_FILE", 10)
    with pytest.raises(DataError, match="more than 10 bytes; is it a picture"):
        open_picture(read_pictures(path).pictures[0])


def test_parquet_text_that_is_not_utf_8(arrow: Any, photos: Path) -> None:
    def text(*values: bytes) -> Any:
        return arrow.Array.from_buffers(arrow.string(), len(values), arrow.array(values, arrow.binary()).buffers())

    path = photos / "pets.parquet"
    assert "'label' holds text that is not UTF-8" in refused(
        parquet(arrow, path, {"image": [png(), png(1)], "label": text(b"caf\xe9", b"b")})
    )
    cells = arrow.StructArray.from_arrays([arrow.nulls(2, "binary"), text(b"\xe9.png", b"0.png")], ["bytes", "path"])
    parquet(arrow, path, {"image": cells, "label": ["a", "b"]})
    with pytest.raises(DataError, match="path of its file is not UTF-8"):
        open_picture(read_pictures(path).pictures[0])


def test_numbers_written_with_a_point_mean_the_same_in_table_and_list(photos: Path) -> None:
    path = table(photos, "path,label\n0.png,0.0\n1.png,1.0\n2.png,2.\n3.png,+1\n4.png,02\n")
    (photos / "classes.yaml").write_text("2.0: fox\n1.0: dog\n0.0: cat\n", encoding="utf-8")
    pictures = read_pictures(path, classes_file=photos / "classes.yaml")
    assert pictures.class_names == ("fox", "dog", "cat")
    expected = [("0.png", "cat"), ("1.png", "dog"), ("2.png", "fox"), ("3.png", "dog"), ("4.png", "fox")]
    assert sorted(described(pictures)) == expected


@pytest.mark.parametrize("label", ["-1", "-1.0", "-100000000000"])
def test_numbers_below_zero_are_no_classes(photos: Path, label: str) -> None:
    path = table(photos, f"path,label\n0.png,{label}\n1.png,0\n2.png,1\n")
    assert "line 2: label -1" in refused(path)
    (photos / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    assert "start at 0" in refused(path, classes_file=photos / "classes.txt")


def test_long_numbers_are_no_names(photos: Path) -> None:
    path = table(photos, "path,label\n0.png,1000000000000\n1.png,1000000000001\n")
    assert "is a number, which means nothing" in refused(path)


def test_a_key_without_a_name_is_no_label(photos: Path) -> None:
    path = table(photos, '{"path": "0.png", "": "cat"}\n{"path": "1.png", "": "dog"}\n', "pets.jsonl")
    assert [one.label for one in list_table(path, labelled=False).pictures] == [None, None]


def test_a_path_with_a_zero_byte(photos: Path) -> None:
    path = table(photos, '{"path": "../a\\u0000b.png", "label": "cat"}\n', "pets.jsonl")
    assert "line 1: '../a\\x00b.png' is not the path of a file" in refused(path)
