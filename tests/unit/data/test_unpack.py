from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix.data import unpack as module
from promptmix.data.unpack import unpack
from promptmix.errors import ConfigError, DataError

PHOTOS = {"photos/cat/1.jpg": b"one", "photos/cat/2.jpg": b"two", "photos/dog/deep/3.jpg": b"three", "photos/README.md": b"read"}


def member(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_bytes(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            tar.addfile(member(name, len(content)), io.BytesIO(content))
        for info in more:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.size else None)
    return buffer.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "photos.tar": tar_bytes,
    "photos.tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "photos.tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "photos.tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "photos.zip": zip_bytes,
    "no ending": tar_bytes,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which nothing but what is unpacked may appear."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def refused(archive: Path, place: Path, message: str, **options: Any) -> None:
    before = contents(place.parent)
    with pytest.raises(DataError, match=message) as caught:
        unpack([archive], place / "out", **options)
    assert "\n" not in str(caught.value)
    assert list(place.iterdir()) == []
    assert contents(place.parent) == before


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_archive(tmp_path: Path, place: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name](PHOTOS))
    done = unpack([tmp_path / name], place / "out")
    # The one folder that holds all is left away.
    assert contents(place / "out") == {path.removeprefix("photos/"): content for path, content in PHOTOS.items()}
    assert (done.files, done.size, done.unnamed) == (4, 15, ())
    assert place / "out" in done.sources
    assert [path.name for path in place.iterdir()] == ["out"]


def test_a_lone_class_folder_is_no_wrapping(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"cat/1.jpg": b"1", "cat/2.jpg": b"2"}))
    unpack([tmp_path / "a.tar"], place / "out")
    assert set(contents(place / "out")) == {"cat/1.jpg", "cat/2.jpg"}


def test_several_archives_go_into_a_folder_each(tmp_path: Path, place: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "noto.tar").write_bytes(tar_bytes({"cat/1.png": b"1", "dog/2.png": b"2"}))
    (tmp_path / "in" / "flat.tar.gz").write_bytes(gzip.compress(tar_bytes({"cat/1.png": b"3", "dog/1.png": b"4"})))
    (tmp_path / "in" / "README.md").write_text("no archive")
    seen: list[tuple[int, int, str]] = []
    done = unpack([tmp_path / "in"], place / "out", on_progress=lambda *progress: seen.append(progress))
    assert set(contents(place / "out")) == {"noto/cat/1.png", "noto/dog/2.png", "flat/cat/1.png", "flat/dog/1.png"}
    assert done.sources == (place / "out" / "flat", place / "out" / "noto")
    assert seen == [(0, 2, "flat.tar.gz"), (1, 2, "noto.tar"), (2, 2, "")]


def test_train_and_test_are_one_source(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({f"a/{part}/{name}/1.jpg": b"1" for part in ("train", "test") for name in "xy"}))
    assert unpack([tmp_path / "a.tar"], place / "out").sources == (place / "out",)
    more = {f"a/{part}/{name}/1.jpg": b"1" for part in ("train", "test", "extra") for name in "xy"}
    (tmp_path / "b.tar").write_bytes(tar_bytes(more))
    assert unpack([tmp_path / "b.tar"], place / "more").sources == (place / "more", place / "more" / "extra")


def test_names_make_class_folders(tmp_path: Path, place: Path) -> None:
    (tmp_path / "noto.tar").write_bytes(tar_bytes({"1F600.webp": b"1", "1F601.webp": b"2", "1F602.webp": b"3", "LICENCE": b"4"}))
    names = tmp_path / "names.csv"
    names.write_text('codepoint,group,name\n1F600,smileys,grinning face\n1F601,smileys,"face, beaming"\n', encoding="utf-8")
    done = unpack([tmp_path / "noto.tar"], place / "out", names=names)
    assert contents(place / "out") == {"grinning face/1F600.webp": b"1", "face, beaming/1F601.webp": b"2", "LICENCE": b"4"}
    assert done.unnamed == ("1F602.webp",)
    assert done.sources == (place / "out",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "needs a column 'name'"),
        ("name,codepoint\ncat,1\n", "needs a column 'name' after a first one"),
        ("codepoint,name\n1,../up\n", "row 2: '../up' cannot be the name of a folder"),
        ("codepoint,name\n1,..\n", "cannot be the name of a folder"),
        ("codepoint,name\n1,C:\\up\n", "cannot be the name of a folder"),
        ("codepoint,name\n1,cat\n1,dog\n", "row 3: '1' has two classes"),
        ("codepoint,name\n1,\n", "row 2: .* is missing"),
        ("codepoint,name\n1\n", "row 2: .* is missing"),
    ],
)
def test_bad_tables_of_names(tmp_path: Path, place: Path, table: str, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.png": b"1"}))
    (tmp_path / "names.csv").write_text(table, encoding="utf-8")
    refused(tmp_path / "a.tar", place, message, names=tmp_path / "names.csv")
    refused(tmp_path / "a.tar", place, "gone.csv cannot be read", names=tmp_path / "gone.csv")


# --------------------------------------------------------------------------------------------- archives not to be trusted

OUTSIDE = ["/etc/evil.jpg", "../evil.jpg", "cat/../../evil.jpg", "cat\\..\\..\\evil.jpg", "\\\\host\\evil.jpg", "C:\\evil.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["photos.tar", "photos.zip"])
def test_names_that_lead_out(tmp_path: Path, place: Path, kind: str, name: str) -> None:
    (tmp_path / kind).write_bytes(KINDS[kind]({"cat/1.jpg": b"1", name: b"evil"}))
    refused(tmp_path / kind, place, f"{kind}.*leads out of the folder")


@pytest.mark.parametrize("name", ["cat/\n.jpg", "cat/\x1b[31m.jpg"])
def test_names_with_control_characters(tmp_path: Path, place: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({name: b"1"}))
    refused(tmp_path / "a.tar", place, "control characters")


def test_names_that_are_too_long(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x" * 300: b"1"}))
    refused(tmp_path / "a.tar", place, "too long")


LINKS = {
    "out": [member("cat/1.jpg", type=tarfile.SYMTYPE, linkname="../../secret")],
    "absolute": [member("cat/1.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard": [member("cat/1.jpg", type=tarfile.LNKTYPE, linkname="../secret")],
    "nothing": [member("cat/1.jpg", type=tarfile.SYMTYPE, linkname="gone.jpg")],
    "itself": [member("cat/1.jpg", type=tarfile.SYMTYPE, linkname="1.jpg")],
    "circle": [
        member("1.jpg", type=tarfile.SYMTYPE, linkname="2.jpg"),
        member("2.jpg", type=tarfile.SYMTYPE, linkname="1.jpg"),
    ],
    "folder": [member("cat", type=tarfile.DIRTYPE), member("dog", type=tarfile.SYMTYPE, linkname="cat")],
    "through": [member("cat", type=tarfile.SYMTYPE, linkname="/tmp"), member("cat/evil.jpg", 3)],
}


@pytest.mark.parametrize("members", LINKS.values(), ids=LINKS)
def test_links_that_lead_out_or_nowhere(tmp_path: Path, place: Path, members: list[tarfile.TarInfo]) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"dog/1.jpg": b"1"}, *members))
    refused(tmp_path / "a.tar", place, "a.tar.* (link|outside|absolute|damaged)")


def test_links_to_other_members_become_files(tmp_path: Path, place: Path) -> None:
    links = [
        member("cat/2.jpg", type=tarfile.SYMTYPE, linkname="1.jpg"),
        member("cat/3.jpg", type=tarfile.LNKTYPE, linkname="cat/1.jpg"),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes({"cat/1.jpg": b"one"}, *links))
    unpack([tmp_path / "a.tar"], place / "out")
    assert contents(place / "out") == {f"cat/{number}.jpg": b"one" for number in (1, 2, 3)}
    for path in (place / "out").rglob("*.jpg"):
        assert not path.is_symlink() and path.stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices(tmp_path: Path, place: Path, kind: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"cat/1.jpg": b"1"}, member("cat/2.jpg", type=kind)))
    refused(tmp_path / "a.tar", place, "special file")


def test_rights_of_the_archive_do_not_come_along(tmp_path: Path, place: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member("cat/1.jpg", 1, mode=0o6777), io.BytesIO(b"1"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    unpack([tmp_path / "a.tar"], place / "out")
    assert stat.S_IMODE((place / "out" / "cat" / "1.jpg").stat().st_mode) & 0o6111 == 0


def test_zip_links_and_passwords(tmp_path: Path, place: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("cat/1.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "link.zip", place, "link or a device")
    locked = bytearray(zip_bytes({"cat/1.jpg": b"1"}))
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(start) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    refused(tmp_path / "locked.zip", place, "needs a password")


@pytest.mark.parametrize("kind", ["photos.tar", "photos.tar.gz", "photos.tar.xz", "photos.zip"])
def test_more_than_is_allowed(tmp_path: Path, place: Path, kind: str) -> None:
    (tmp_path / kind).write_bytes(KINDS[kind]({"cat/1.jpg": bytes(600_000), "cat/2.jpg": bytes(600_000)}))
    refused(tmp_path / kind, place, "more than 0.001 GB", max_gigabytes=0.001)
    assert unpack([tmp_path / kind], place / "out", max_gigabytes=0.0012).size == 1_200_000


def test_several_archives_share_the_limit(tmp_path: Path, place: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(tar_bytes({"cat/1.jpg": bytes(600_000)}))
    with pytest.raises(DataError, match="more than"):
        unpack([tmp_path / "a.tar", tmp_path / "b.tar"], place / "out", max_gigabytes=0.001)
    assert list(place.iterdir()) == []


def test_a_file_that_only_says_it_is_large(tmp_path: Path, place: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member("cat/1.jpg", 10**15))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    refused(tmp_path / "a.tar", place, "more than 20 GB")


def test_a_zip_that_hides_its_size(tmp_path: Path, place: Path) -> None:
    honest = zip_bytes({"cat/1.jpg": bytes(3_000_000)})
    lying = honest.replace((3_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    assert lying != honest
    (tmp_path / "a.zip").write_bytes(lying)
    refused(tmp_path / "a.zip", place, "damaged")


def test_a_header_that_would_fill_the_memory(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 1 << 20)
    buffer = io.BytesIO()
    buffer.write(member("pax", 4 << 20, type=tarfile.XHDTYPE).tobuf())
    buffer.write(bytes(4 << 20))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    assert (tmp_path / "a.tar.gz").stat().st_size < 10_000
    refused(tmp_path / "a.tar.gz", place, "claims to be very large")


def test_too_many_files(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    (tmp_path / "photos.zip").write_bytes(zip_bytes(PHOTOS))
    refused(tmp_path / "photos.zip", place, "more than 3 files")


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_are_cut_off(tmp_path: Path, place: Path, kind: str) -> None:
    noise = {f"cat/{number}.jpg": os.urandom(20_000) for number in range(3)}
    whole = KINDS[kind](noise)
    (tmp_path / kind).write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / kind, place, "damaged|not a tar or zip")


@pytest.mark.parametrize("kind", ["photos.tar.gz", "photos.tar.bz2", "photos.tar.xz", "photos.zip"])
def test_archives_with_flipped_bytes(tmp_path: Path, place: Path, kind: str) -> None:
    whole = bytearray(KINDS[kind]({"cat/1.jpg": os.urandom(50_000)}))
    for place_of_byte in range(len(whole) // 2, len(whole) // 2 + 50):
        whole[place_of_byte] ^= 0xFF
    (tmp_path / kind).write_bytes(whole)
    refused(tmp_path / kind, place, "damaged")


@pytest.mark.parametrize("kind", ["photos.tar.gz", "photos.tar.bz2", "photos.tar.xz"])
def test_a_checksum_at_the_end_that_does_not_fit(tmp_path: Path, place: Path, kind: str) -> None:
    whole = KINDS[kind]({"cat/1.jpg": os.urandom(50_000)})
    (tmp_path / kind).write_bytes(whole[:-8])
    refused(tmp_path / kind, place, "damaged")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK", b"\x1f\x8b", b"BZh", bytes(100)])
def test_files_that_are_no_archive(tmp_path: Path, place: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", place, r"a\.tar")


def test_a_file_twice_and_a_file_that_is_a_folder(tmp_path: Path, place: Path) -> None:
    (tmp_path / "twice.tar").write_bytes(tar_bytes({"cat/1.jpg": b"1"}, member("cat/1.jpg", 5)))
    refused(tmp_path / "twice.tar", place, "'1.jpg' is there twice")
    (tmp_path / "both.tar").write_bytes(tar_bytes({"cat": b"1", "cat/1.jpg": b"2"}))
    refused(tmp_path / "both.tar", place, "of a file and of a folder")


def test_an_empty_archive_and_none(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({}))
    refused(tmp_path / "a.tar", place, "no files to unpack")
    refused(tmp_path / "gone.tar", place, "there is no archive")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", place, "holds no archive")
    with pytest.raises(ConfigError, match="above 0"):
        unpack([tmp_path / "a.tar"], place / "out", max_gigabytes=float("nan"))


# ---------------------------------------------------------------------------------------------------- where it is put


def test_nothing_is_overwritten(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(PHOTOS))
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        unpack([tmp_path / "a.tar"], place / "out")
    assert contents(place) == {"out/mine.txt": b"mine"}
    (place / "file").write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        unpack([tmp_path / "a.tar"], place / "file")
    (tmp_path / "elsewhere").mkdir()
    (place / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="nothing is overwritten"):
        unpack([tmp_path / "a.tar"], place / "link")
    (place / "empty").mkdir()
    unpack([tmp_path / "a.tar"], place / "empty")
    assert len(contents(place / "empty")) == 4


def test_a_place_that_cannot_be_written(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(PHOTOS))
    (place / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot write"):
        unpack([tmp_path / "a.tar"], place / "file" / "out")


def test_what_is_interrupted_leaves_nothing(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(PHOTOS))
    (tmp_path / "b.tar").write_bytes(tar_bytes(PHOTOS))

    def stop(number: int, total: int, name: str) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack([tmp_path / "a.tar", tmp_path / "b.tar"], place / "out", on_progress=stop)
    assert list(place.iterdir()) == []


def test_real_archives(shared: Path, place: Path) -> None:
    data = shared / "data"
    if not (data / "clothing.tar").is_file() or not (data / "emoji_named").is_dir():
        pytest.skip("clothing.tar and emoji_named are not in the folder beside the checkout")
    done = unpack([data / "clothing.tar"], place / "clothing")
    assert (done.files, done.sources) == (972, (place / "clothing",))
    assert len(list((place / "clothing" / "train").iterdir())) == 10
    named = unpack([data / "emoji_named" / "noto.tar"], place / "noto", names=data / "emoji_named" / "names.csv")
    assert (named.files, named.unnamed, named.sources) == (1245, (), (place / "noto",))
    assert (place / "noto" / "broken heart" / "1F494.webp").is_file()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_tar_that_was_cut_between_two_members(tmp_path: Path, place: Path, compress: Callable[[bytes], bytes]) -> None:
    # A block for each header and one for each content.
    (tmp_path / "a.tar").write_bytes(compress(tar_bytes(PHOTOS)[: 4 * 512]))
    refused(tmp_path / "a.tar", place, "damaged or cut off .at byte 2,048 is neither a member nor the end")


@pytest.mark.parametrize("before", [{}, {"type": tarfile.LNKTYPE, "linkname": "dog/2.jpg"}])
def test_a_size_that_leads_back(tmp_path: Path, place: Path, before: dict[str, Any]) -> None:
    # A link is looked for among all members, which must end too.
    back = member("dog/1.jpg", pax_headers={"size": "-1536"})
    (tmp_path / "a.tar").write_bytes(tar_bytes({}, member("cat/1.jpg", **before), back))
    refused(tmp_path / "a.tar", place, "negative size")


def test_a_link_to_itself_is_told(tmp_path: Path, place: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"dog/1.jpg": b"1"}, *LINKS["itself"]))
    refused(tmp_path / "a.tar", place, "'cat/1.jpg' is a link that leads to itself")


@pytest.mark.parametrize("gigabytes", [float("inf"), 1e300])
def test_limits_that_are_none(tmp_path: Path, place: Path, gigabytes: float) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(PHOTOS))
    with pytest.raises(ConfigError, match="at most 1,000,000"):
        unpack([tmp_path / "a.tar"], place / "out", max_gigabytes=gigabytes)
