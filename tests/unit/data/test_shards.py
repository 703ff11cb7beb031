"""Tar files of pictures: what belongs together, what is passed over, what is refused. Nothing is ever unpacked."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import logging
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptmix.data.images import content_key, file_state, open_picture
from promptmix.data.listing import Columns
from promptmix.data.read import list_any_pictures, read_parts, read_pictures
from promptmix.data.records import PictureSet
from promptmix.data.shards import TarPicture, find_shards
from promptmix.data.splits import read_split, write_split
from promptmix.errors import ConfigError, DataError, PromptMixError


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def tar(path: Path, *members: str | tuple[str, bytes | str]) -> Path:
    """A tar file with these members in this order; one without content is a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, member in enumerate(members):
            name, content = (member, png(number)) if isinstance(member, str) else member
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def described(pictures: PictureSet) -> list[tuple[str, str]]:
    return [(str(record.picture), pictures.class_names[record.label]) for record in pictures.records]


def refused(source: Path | str, kind: type[PromptMixError] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_parts(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pictures_with_label_files(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "pets.tar",
        ("in/0001.cls", "cat\n"),
        "in/0001.png",
        "in/0002.jpg",
        ("in/0002.txt", " hot_dog "),
        "in/0003.JPG",
        ("in/0003.json", json.dumps({"label": "cat", "width": 4})),
        "in/0004.png",
        ("in/0004.txt", "a caption"),
        ("in/0004.cls", "dog"),
        ("in/0004.mask.png", png()),
        ("README.txt", "about"),
    )
    pictures = read_pictures(path)
    assert pictures.root == tmp_path
    assert described(pictures) == [
        ("pets.tar/in/0001.png", "cat"),
        ("pets.tar/in/0002.jpg", "hot dog"),
        ("pets.tar/in/0003.JPG", "cat"),
        ("pets.tar/in/0004.png", "dog"),
    ]
    assert os.listdir(tmp_path) == ["pets.tar"]


def test_a_picture_is_read_by_its_place(tmp_path: Path) -> None:
    contents = [png(shade) for shade in range(4)]
    path = tar(tmp_path / "a.tar", *[(f"{'cat' if n % 2 else 'dog'}/{n}.png", content) for n, content in enumerate(contents)])
    pictures = read_pictures(path).pictures
    for picture, content in zip(pictures, contents, strict=True):
        again = pickle.loads(pickle.dumps(picture))  # noqa: S301  # as it goes to a worker process
        assert (again, hash(again)) == (picture, hash(picture))
        assert again.read() == content
        assert content_key(again) == content_key(content)
        assert open_picture(again).size == (4, 4)


def test_numbers_as_labels(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "1.png", ("1.cls", "1"), "2.png", ("2.cls", "0\n"))
    assert "a.tar/1.png: label '1' is a number" in refused(path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert described(read_pictures(path, classes_file=tmp_path / "classes.txt")) == [
        ("a.tar/1.png", "dog"),
        ("a.tar/2.png", "cat"),
    ]


def test_a_field_of_json_can_be_named(tmp_path: Path) -> None:
    members = [("1.cls", "7"), ("1.json", '{"kind": "cat"}'), ("2.cls", "8"), ("2.json", '{"kind": "dog"}')]
    path = tar(tmp_path / "a.tar", "1.png", "2.png", *members)
    assert read_pictures(path, columns=Columns(label="kind")).class_names == ("cat", "dog")
    assert "has no column 'kinds'; did you mean 'kind'?" in refused(path, ConfigError, columns=Columns(label="kinds"))
    unclear = tar(tmp_path / "b.tar", "1.png", ("1.json", '{"kind": "cat"}'))
    assert "has no label that is known by its name (kind); say which with --label-column" in refused(unclear)
    without = tar(tmp_path / "c.tar", "1.png", ("1.cls", "cat"))
    assert "has no .json beside it that could hold 'kind'" in refused(without, columns=Columns(label="kind"))


@pytest.mark.parametrize("top", ["", "./", "pets/", "home/me/pets/"])
def test_folders_of_classes(tmp_path: Path, top: str) -> None:
    path = tar(tmp_path / "a.tar", f"{top}cat/1.png", f"{top}dog/deep/er/2.png", f"{top}cat/3.png", (f"{top}README", "about"))
    pictures = read_pictures(path)
    inside = top.removeprefix("./")
    assert described(pictures) == [
        (f"a.tar/{inside}cat/1.png", "cat"),
        (f"a.tar/{inside}dog/deep/er/2.png", "dog"),
        (f"a.tar/{inside}cat/3.png", "cat"),
    ]


@pytest.mark.parametrize("top", ["", "pets/"])
def test_folders_of_classes_in_parts(tmp_path: Path, top: str) -> None:
    path = tar(tmp_path / "a.tar", *[f"{top}{name}.png" for name in ("train/cat/1", "train/dog/2", "test/cat/3", "valid/dog/4")])
    parts = read_parts(path)
    assert {name: [label for _, label in described(part)] for name, part in parts.items()} == {
        "train": ["cat", "dog"],
        "val": ["dog"],
        "test": ["cat"],
    }
    strange = tar(tmp_path / "b.tar", "train/cat/1.png", "train/dog/2.png", "test/bird/3.png")
    assert "label 'bird' is not a known class" in refused(strange)
    for part, name in (("train", "train"), ("test", "test"), ("validation", "val")):
        assert list(read_parts(tar(tmp_path / "c.tar", f"{part}/cat/1.png", f"{part}/dog/2.png"))) == [name]
    three = tar(tmp_path / "d.tar", "train/steam/1.png", "bus/red/2.png", "test/crash/3.png")
    assert read_pictures(three).class_names == ("bus", "test", "train")
    loose = tar(tmp_path / "e.tar", "train/cat/1.png", "train/dog/2.png", "test/3.png")
    assert "e.tar: test/3.png is in no folder of a class" in refused(loose)


def test_folders_beside_the_parts_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tar(tmp_path / "a.tar", *[f"pets/{name}.png" for name in ("train/cat/1", "train/dog/2", "test/cat/3", "notes/4")])
    with caplog.at_level(logging.WARNING):
        assert {name: len(part) for name, part in read_parts(path).items()} == {"train": 2, "test": 1}
    assert "a.tar: these folders are not train, val or test: notes; left out" in caplog.text


def test_one_class_of_a_model_is_no_folder_around_classes(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "cat/big/1.png", "cat/small/2.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_pictures(path, classes_file=tmp_path / "classes.txt").labels == (0, 0)
    assert read_pictures(path, class_names=["dog", "cat"]).labels == (1, 1)


def test_many_shards_are_one_source(tmp_path: Path) -> None:
    for number in range(12):
        tar(tmp_path / f"{number:04}.tar", f"{'cat' if number % 2 else 'dog'}/{number}.png")
    folder, braces, star = tmp_path, f"{tmp_path}/{{0000..0011}}.tar", f"{tmp_path}/*.tar"
    sets = [read_pictures(source) for source in (folder, braces, star)]
    assert sets[0] == sets[1] == sets[2]
    assert [str(picture) for picture in sets[0].pictures] == [
        f"{number:04}.tar/{'cat' if number % 2 else 'dog'}/{number}.png" for number in range(12)
    ]
    assert len(read_pictures(f"{tmp_path}/00{{00..01}}.tar")) == 2
    assert find_shards(f"{tmp_path}/0{{0..0}}{{01..02}}.tar") == [tmp_path / "0001.tar", tmp_path / "0002.tar"]


def test_names_of_shards_say_parts(tmp_path: Path) -> None:
    tar(tmp_path / "pets-train-0000.tar", "1.png", ("1.cls", "cat"))
    tar(tmp_path / "pets-train-0001.tar", "1.png", ("1.cls", "dog"))
    tar(tmp_path / "pets-val-0000.tar", "1.png", ("1.cls", "dog"))
    assert {name: len(part) for name, part in read_parts(tmp_path).items()} == {"train": 2, "val": 1}
    assert list(read_parts(f"{tmp_path}/pets-train-*.tar")) == ["train"]
    # A name that says nothing is not guessed at; a word within a word is no part.
    tar(tmp_path / "latest.tar", "1.png", ("1.cls", "dog"))
    message = refused(tmp_path)
    assert message.startswith(
        f"{tmp_path / 'latest.tar'} is in no part, but others are by their names, such as pets-train-0000.tar"
    )
    # Where one part alone is named, there is nothing to keep apart.
    (tmp_path / "pets-val-0000.tar").unlink()
    assert {name: len(part) for name, part in read_parts(tmp_path).items()} == {"train": 3}


def test_folders_of_shards_say_parts(tmp_path: Path) -> None:
    tar(tmp_path / "train" / "0.tar", "cat/1.png", "dog/1.png")
    tar(tmp_path / "test" / "0.tar", "dog/1.png")
    parts = read_parts(tmp_path)
    assert described(parts["test"]) == [("test/0.tar/dog/1.png", "dog")]
    assert len(parts["train"]) == 2


def test_members_that_are_no_plain_files_inside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in (
            "cat/1.png",
            "dog/2.png",
            "/cat/3.png",
            "../cat/4.png",
            "cat/../../5.png",
            "cat\\6.png",
            "cat/._1.png",
            "__MACOSX/cat/1.png",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png()))
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"cat/link{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in described(read_pictures(path))] == ["a.tar/cat/1.png", "a.tar/dog/2.png"]
    assert "8 members are links, devices or lead out of the archive; left out" in caplog.text
    assert os.listdir(tmp_path) == ["a.tar"]


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("cat/1.png", png(1)), ("dog/1.png", png(2)), ("cat/1.png", png(3)))
    contents = {str(picture): content_key(picture) for picture in read_pictures(path).pictures}
    assert contents == {"a.tar/cat/1.png": content_key(png(3)), "a.tar/dog/1.png": content_key(png(2))}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "holds no picture"),
        ([("a.txt", "x")], "holds no picture"),
        (
            ["1.png", "2.png"],
            "holds pictures without labels, such as 1.png; put them into folders of classes, or a label file such as 1.cls",
        ),
        (["cat/1.png", "2.png"], "without labels, such as 2.png"),
        (["cat/1.png", "cat/2.png"], "only one class ('cat')"),
        (["1.png", ("1.cls", "cat"), "2.png"], "2.png has no label file (2.cls, .json or .txt), but others have"),
        (["1.png", "1.jpg", ("1.cls", "cat")], "1.png and 1.jpg share one label file"),
        (["1.png", ("1.cls", b"\xff\xfe")], "1.cls is no UTF-8 text"),
        (["1.png", ("1.cls", " ")], "a.tar/1.png has no label"),
        (["1.png", ("1.json", "{")], "1.json is no JSON"),
        (["1.png", ("1.json", "[" * 100_000)], "1.json is no JSON"),
        (["1.png", ("1.json", "3")], "no JSON object with a label"),
        (["1.png", ("1.json", '{"label": [1]}')], "label '[1]' is neither a name nor a whole number"),
        (["1.png", ("1.txt", "x" * 1_000_001)], "is it a label?"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path: Path, members: list[Any], words: str) -> None:
    message = refused(tar(tmp_path / "a.tar", *members))
    assert words in message
    assert "a.tar" in message


def test_compressed_archives_are_refused_with_what_to_do(tmp_path: Path) -> None:
    plain = tar(tmp_path / "a.tar", "cat/1.png", "dog/2.png").read_bytes()
    for name in ("b.tar.gz", "b.tgz", "b.tar"):
        (tmp_path / name).write_bytes(gzip.compress(plain))
        message = refused(tmp_path / name)
        assert f"{tmp_path / name} is compressed (gzip)" in message
        assert "plain .tar" in message
    (tmp_path / "c.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd....")
    assert "is compressed (zstd)" in refused(tmp_path / "c.tar.zst")


def test_files_that_are_missing_damaged_or_no_tar(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path / 'gone.tar'}; check the path" in refused(tmp_path / "gone.tar")
    assert "no file matches" in refused(f"{tmp_path}/x*.tar")
    tar(tmp_path / "0.tar", "cat/1.png")
    assert "1.tar (1 of 2 missing of 3)" in refused(f"{tmp_path}/{{0..2}}.tar")
    assert "must count up" in refused(f"{tmp_path}/{{2..0}}.tar")
    assert "at most 100,000 files" in refused(f"{tmp_path}/{{0..99}}{{0..9999}}.tar")
    (tmp_path / "text.tar").write_text("no tar" * 500)
    assert "is no tar file, or is cut off or damaged" in refused(tmp_path / "text.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert "empty.tar" in refused(tmp_path / "empty.tar")


def test_a_cut_archive_tells_when_its_picture_is_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "cat/1.png", "dog/2.png")
    first, second = read_pictures(path).pictures
    assert isinstance(second, TarPicture)
    path.write_bytes(path.read_bytes()[: second.offset + 10])
    for picture in (first, second):
        with pytest.raises(DataError, match=r"a\.tar/(cat/1|dog/2)\.png: .*a\.tar has changed since it was listed"):
            open_picture(picture)
    now = dataclasses.replace(second, state=file_state(path))  # as where the end is not there yet
    with pytest.raises(DataError, match=r"a\.tar/dog/2\.png is cut off"):
        open_picture(now)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar/cat/1\.png cannot be read"):
        content_key(first)


def test_an_archive_that_changes(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("cat/1.png", png(1)), ("dog/2.png", png(2)))
    listed = read_pictures(path).pictures
    os.utime(tar(path, ("dog/2.png", png(2)), ("cat/1.png", png(1))), ns=(0, 0))
    for picture in listed:
        with pytest.raises(DataError, match="has changed since it was listed; start again"):
            content_key(picture)
    assert {str(one): content_key(one) for one in read_pictures(path).pictures} == {
        "a.tar/cat/1.png": content_key(png(1)),
        "a.tar/dog/2.png": content_key(png(2)),
    }


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())


@pytest.mark.parametrize("where", ["backup.tar", "train/backup.tar"])
@pytest.mark.parametrize("parts", [False, True])
def test_an_archive_unpacked_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, parts: bool) -> None:
    if not parts:
        put(tmp_path / "cat/1.png", tmp_path / "dog/1.png")
        where = "backup.tar"
    else:
        put(*(tmp_path / part / name / "1.png" for part in ("train", "test") for name in ("cat", "dog")))
    tar(tmp_path / where, "old/1.png", "older/2.png")
    with caplog.at_level(logging.WARNING):
        found = read_parts(tmp_path)
    assert {name: part.class_names for name, part in found.items()} == dict.fromkeys(found, ("cat", "dog"))
    assert list(found) == (["train", "test"] if parts else ["train"])
    assert caplog.messages == [f"{tmp_path} holds folders of pictures, so the tar files in it were left out: {tmp_path / where}"]
    assert list_any_pictures(tmp_path) == sorted(tmp_path.rglob("*.png"))


def test_pictures_beside_shards_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar(tmp_path / "train" / "0.tar", "cat/1.png", "dog/2.png")
    tar(tmp_path / "test" / "0.tar", "cat/1.png")
    put(tmp_path / "train" / "preview.png")
    (tmp_path / "test" / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert {name: len(part) for name, part in read_parts(tmp_path).items()} == {"train": 2, "test": 1}
    assert caplog.messages == [f"{tmp_path}: 1 pictures lie beside the tar files; left out"]


def test_large_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", "cat/1.png", "dog/2.png")
    monkeypatch.setattr("promptmix.data.shards.LARGEST_FILE", 10)
    assert "a.tar/cat/1.png has" in refused(path)
    monkeypatch.undo()
    monkeypatch.setattr("promptmix.data.shards._MOST_PICTURES", 1)
    assert "more than 1 members" in refused(path)


def test_columns_of_pictures_mean_nothing_to_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name / "1.png").write_bytes(png())
    assert "has no columns" in refused(tmp_path, ConfigError, columns=Columns(label="x"))


def test_a_split_of_pictures_in_tar_files(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "train/cat/1.png", "train/dog/2.png", "test/cat/3.png")
    parts = read_parts(path)
    write_split(tmp_path / "split.json", parts)
    rows = json.loads((tmp_path / "split.json").read_text())["parts"]
    assert rows["test"] == [["a.tar/test/cat/3.png", 0, content_key(png(2)).removeprefix("file:")[:16]]]
    stored = [picture for part in parts.values() for picture in part.pictures if isinstance(picture, TarPicture)]
    assert read_split(tmp_path / "split.json", tmp_path, stored) == parts
    with pytest.raises(DataError, match="is missing"):
        read_split(tmp_path / "split.json", tmp_path)
    tar(path, "train/cat/1.png", ("train/dog/2.png", png(9)), "test/cat/3.png")
    changed = [picture for part in read_parts(path).values() for picture in part.pictures if isinstance(picture, TarPicture)]
    with pytest.raises(DataError, match="is not the picture"):
        read_split(tmp_path / "split.json", tmp_path, changed)


def headers(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


def test_a_tar_file_that_is_cut_between_or_in_headers_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = tar(tmp_path / "pets.tar", *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)))
    whole = path.read_bytes()
    assert len(read_pictures(path)) == 6
    fifth = headers(path)[4]
    flipped = bytearray(whole)
    flipped[fifth + 3] ^= 1
    for damaged in (whole[:fifth], whole[: fifth + 100], bytes(flipped), whole[:fifth] + b"\0" * 100):
        path.write_bytes(damaged)
        assert f"cut off or damaged (at byte {fifth:,} is neither a member nor the end)" in refused(path)
    last = headers(tar(path, "cat/1.png", "dog/1.png"))[1]
    end = last + 512 + 512  # the picture is smaller than a block
    path.write_bytes(path.read_bytes()[: end + 512])  # one block as the mark, as some writers leave it
    assert len(read_pictures(path)) == 2


def test_sizes_that_lead_back_do_not_lead_round_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("cat/1.png"))
        back = tarfile.TarInfo("dog/1.png")
        back.pax_headers = {"size": "-1536"}
        archive.addfile(back)
    assert "negative size" in refused(path)
