from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptmix.data.check import Look, Report, check_pictures, look_at, read_leniently, same_pictures
from promptmix.data.duplicates import sketch
from promptmix.data.findings import LEVELS, Finding
from promptmix.data.images import StoredPicture
from promptmix.data.pictograms import draw_set
from promptmix.data.records import PictureSet, Record
from promptmix.errors import DataError


def knows_all(text: str) -> list[int]:
    return [hash(word) for word in text.split()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four drawn pictures of each of three classes, of 200 x 200 pixels."""
    root = tmp_path / "photos"
    for number, drawn in enumerate(draw_set(("anchor", "cat", "skull"), ("stamp", "neon"), 2, 1)):
        folder = root / drawn.class_name
        folder.mkdir(parents=True, exist_ok=True)
        drawn.image.resize((200, 200)).save(folder / f"{number:02}.png")
    return root


def checked(root: Path, **options: Any) -> Report:
    parts, refusal = read_leniently(root)
    settings = {"encode": knows_all, "most_tokens": 60, "input_size": 64, "refusal": refusal, **options}
    return check_pictures(parts, **settings)


def finding(report: Report, kind: str) -> Finding:
    return next(one for one in report.findings if one.kind == kind)


def kinds(report: Report) -> dict[str, str]:
    return {one.kind: one.level for one in report.findings}


def names_of(report: Report, kind: str) -> list[str]:
    return ["/".join(Path(picture).parts[-2:]) for item in finding(report, kind).items for picture in item.pictures]


def test_good_pictures(photos: Path) -> None:
    report = checked(photos)
    assert report.counts == {"train": 12}
    assert report.class_names == ("anchor", "cat", "skull")
    assert kinds(report) == {"unmeasured_classes": "warning"}  # a fifth of four is none
    assert kinds(checked(photos, hold_out=0.25)) == {}


def test_the_report_as_json_holds_all(photos: Path) -> None:
    for number in range(30):
        (photos / "cat" / f"bad {number}.png").write_bytes(b"no picture")
    said = json.loads(json.dumps(checked(photos).to_json()))
    assert said["pictures"] == {"train": 42}
    bad = next(one for one in said["findings"] if one["kind"] == "unreadable")
    assert bad["count"] == len(bad["items"]) == 30
    assert bad["items"][0]["pictures"] == [str(photos / "cat" / "bad 0.png")]


def test_pictures_that_cannot_be_read_each_with_its_reason(photos: Path) -> None:
    whole = (photos / "cat" / "04.png").read_bytes()
    (photos / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "empty.png").write_bytes(b"")
    (photos / "cat" / "text.jpg").write_text("not a picture")
    (photos / "cat" / "folder.jpg").mkdir()
    (photos / "cat" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    report = checked(photos)
    reasons = {Path(item.pictures[0]).name: item.detail for item in finding(report, "unreadable").items}
    assert kinds(report)["unreadable"] == "error"
    assert set(reasons) == {"cut.png", "empty.png", "text.jpg", "gone.jpg"}
    assert reasons["cut.png"].startswith("is damaged or cut off")
    assert reasons["empty.png"].startswith("is empty (0 bytes)")
    assert reasons["text.jpg"].startswith("is not a picture")
    assert reasons["gone.jpg"].startswith("is a link to nothing")
    assert kinds(checked(photos, skip_bad=True))["unreadable"] == "warning"


def test_a_class_of_nothing_but_bad_pictures_is_empty(photos: Path) -> None:
    for picture in (photos / "cat").iterdir():
        picture.write_bytes(b"no picture")
    report = checked(photos, skip_bad=True)
    assert kinds(report)["empty_classes"] == "error"
    assert finding(report, "empty_classes").items[0].classes == ("cat",)


def test_what_is_done_with_odd_pictures_is_said(photos: Path) -> None:
    folder, generator = photos / "cat", np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(generator.integers(0, 256, shape, np.uint8))

    noise(80, 80, 3).convert("CMYK").save(folder / "cmyk.jpg")
    noise(80, 80, 4).save(folder / "alpha.png")
    noise(80, 80).save(folder / "frames.gif", save_all=True, append_images=[noise(80, 80)])
    Image.fromarray(generator.integers(0, 65536, (80, 80)).astype(np.uint16)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(80, 90, 3).save(folder / "turned.jpg", exif=exif)
    upright = Image.Exif()
    upright[0x0112] = 1
    noise(80, 90, 3).save(folder / "upright.jpg", exif=upright)
    noise(20, 31, 3).save(folder / "tiny.png")
    noise(40, 41, 3).save(folder / "small.png")
    noise(80, 400, 3).save(folder / "long.png")
    Image.new("RGB", (90, 90), "white").save(folder / "white.png")
    Image.new("RGB", (90, 80), "black").save(folder / "black.png")
    report = checked(photos, hold_out=0.25)
    for kind, name in (
        ("cmyk", "cmyk.jpg"),
        ("transparent", "alpha.png"),
        ("frames", "frames.gif"),
        ("deep", "deep.png"),
        ("turned", "turned.jpg"),
        ("tiny", "tiny.png"),
        ("small", "small.png"),
        ("long", "long.png"),
    ):
        assert names_of(report, kind) == [f"cat/{name}"], kind
    assert names_of(report, "blank") == ["cat/black.png", "cat/white.png"]
    assert kinds(report) == {
        **dict.fromkeys(("tiny", "blank"), "warning"),
        **dict.fromkeys(("small", "long", "frames", "transparent", "turned", "cmyk", "deep", "unbalanced"), "note"),
    }


def test_what_becomes_of_long_pictures_depends_on_the_backbone(photos: Path) -> None:
    with Image.open(next((photos / "cat").iterdir())) as drawn:
        drawn.resize((80, 400)).save(photos / "cat" / "long.png")
    assert "only the square in the middle is seen" in finding(checked(photos), "long").advice
    squeezed = finding(checked(photos, resize_mode="squash"), "long")
    assert "squeezes them into a square" in squeezed.advice
    assert "middle" not in squeezed.advice


def test_pictures_without_a_sketch_do_not_shift_the_others() -> None:
    generator = np.random.default_rng(0)
    one, other = (sketch(Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8))) for _ in range(2))
    sketches = [other, None, one, None, one]
    looks = [Look(content=f"file:{place}", sketch=found) for place, found in enumerate(sketches)]
    assert same_pictures([*looks, looks[0]]) == ([[0, 5]], [[2, 4]])


def test_huge_pictures_are_slow(photos: Path) -> None:
    Image.new("1", (6000, 5000)).save(photos / "cat" / "huge.png")
    report = checked(photos)
    assert names_of(report, "huge") == ["cat/huge.png"]
    assert finding(report, "huge").items[0].detail == "6000 x 5000"


def test_copies_conflicts_and_leaks(tmp_path: Path, photos: Path) -> None:
    train, test = tmp_path / "both" / "train", tmp_path / "both" / "test"
    train.parent.mkdir()
    photos.rename(train)
    for name in ("anchor", "cat", "skull"):
        (test / name).mkdir(parents=True)
    for drawn in draw_set(("anchor", "cat", "skull"), ("negative",), 1, 9):
        drawn.image.resize((100, 100)).save(test / drawn.class_name / "own.png")
    one, two, three, four = (train / "cat" / f"0{number}.png" for number in (4, 5, 6, 7))
    (train / "cat" / "copy.png").write_bytes(one.read_bytes())
    (train / "skull" / "stray.png").write_bytes(two.read_bytes())
    (test / "cat" / "leak.png").write_bytes(three.read_bytes())
    Image.open(four).convert("RGB").save(test / "cat" / "near.jpg", quality=70)
    Image.open(train / "anchor" / "00.png").resize((150, 150)).save(train / "anchor" / "scaled.png")
    Image.open(train / "anchor" / "01.png").convert("RGB").save(train / "cat" / "near stray.jpg", quality=80)
    report = checked(tmp_path / "both")
    assert report.counts == {"train": 16, "test": 5}
    assert names_of(report, "copies") == ["cat/04.png", "cat/copy.png"]
    assert names_of(report, "conflicts") == ["cat/05.png", "skull/stray.png"]
    assert finding(report, "conflicts").items[0].classes == ("cat", "skull")
    assert names_of(report, "leaks") == ["cat/06.png", "cat/leak.png"]
    assert names_of(report, "near_leaks") == ["cat/07.png", "cat/near.jpg"]
    assert names_of(report, "near_copies") == ["anchor/00.png", "anchor/scaled.png"]
    assert names_of(report, "near_conflicts") == ["anchor/01.png", "cat/near stray.jpg"]
    levels = kinds(report)
    assert {levels[kind] for kind in ("leaks", "near_leaks", "conflicts")} == {"serious"}
    assert {levels[kind] for kind in ("copies", "near_copies", "near_conflicts")} == {"warning"}
    ranks = [LEVELS.index(one.level) for one in report.findings]
    assert ranks == sorted(ranks)


def test_a_picture_can_be_a_leak_and_a_conflict(photos: Path) -> None:
    parts, _ = read_leniently(photos)
    training = parts["train"]
    (photos / "skull" / "stray.png").write_bytes((photos / "cat" / "04.png").read_bytes())
    stray = Record(picture=photos / "skull" / "stray.png", label=2)
    test = PictureSet(root=photos, class_names=training.class_names, records=(stray,))
    report = check_pictures({"train": training, "test": test}, encode=knows_all, most_tokens=60, input_size=64)
    assert names_of(report, "leaks") == names_of(report, "conflicts") == ["cat/04.png", "skull/stray.png"]
    assert "copies" not in kinds(report)


def test_blank_pictures_are_no_copies_of_each_other(photos: Path) -> None:
    for number, name in enumerate(("anchor", "cat", "skull")):
        Image.new("RGB", (90 + number, 90), "white").save(photos / name / "white.png")
    report = checked(photos)
    assert len(finding(report, "blank").items) == 3
    assert not {"near_copies", "near_conflicts", "conflicts"} & set(kinds(report))


def test_sizes_of_classes(photos: Path) -> None:
    for picture in sorted((photos / "cat").iterdir())[1:]:
        picture.unlink()
    report = checked(photos, hold_out=0.3)
    assert finding(report, "single_pictures").items[0].classes == ("cat",)
    assert [item.classes[0] for item in finding(report, "unmeasured_classes").items] == ["cat"]
    assert kinds(report)["unbalanced"] == "note"
    few = checked(photos, shots=3)
    assert [(item.classes, item.detail) for item in finding(few, "few_shots").items] == [(("cat",), "1 picture")]
    assert [item.classes[0] for item in finding(few, "unmeasured_classes").items] == ["cat"]
    assert "unbalanced" not in kinds(checked(photos, shots=1))
    everything = checked(photos, shots=4)
    assert [item.classes[0] for item in finding(everything, "unmeasured_classes").items] == ["anchor", "cat", "skull"]


def test_ten_times_as_many_pictures_are_a_warning(photos: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(36):
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(photos / "cat" / f"{number}.bmp")
    assert kinds(checked(photos))["unbalanced"] == "warning"


def test_all_that_is_wrong_with_folders_at_once(photos: Path) -> None:
    (photos / "Cat_").mkdir()
    (photos / "Cat_" / "1.png").write_bytes(b"")
    (photos / "empty").mkdir()
    report = checked(photos)
    assert {kind for kind, level in kinds(report).items() if level == "error"} == {"equal_names", "empty_classes", "unreadable"}
    assert finding(report, "equal_names").items[0].classes == ("Cat", "cat")


def test_what_the_reader_refuses_is_told_where_nothing_else_says_it(photos: Path) -> None:
    (photos / "loop").symlink_to(photos)
    report = checked(photos)
    assert kinds(report)["refused"] == "error"
    assert "link back" in finding(report, "refused").items[0].detail
    (photos / "empty").mkdir()
    assert "refused" not in kinds(checked(photos))


def test_too_few_classes(photos: Path) -> None:
    for name in ("anchor", "skull"):
        for picture in (photos / name).iterdir():
            picture.unlink()
        (photos / name).rmdir()
    assert kinds(checked(photos))["too_few_classes"] == "error"


@pytest.mark.parametrize("contents", [[], ["loose.png"]])
def test_no_classes_at_all(tmp_path: Path, contents: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    for name in contents:
        Image.new("RGB", (50, 50)).save(tmp_path / "photos" / name)
    with pytest.raises(DataError, match="sub-folder"):
        read_leniently(tmp_path / "photos")
    with pytest.raises(DataError, match="nowhere"):
        read_leniently(tmp_path / "nowhere")


def test_classes_that_only_one_part_has(photos: Path) -> None:
    training = read_leniently(photos)[0]["train"]
    other = PictureSet(
        root=photos,
        class_names=("Cat", "dog"),
        records=(Record(picture=training.records[4].picture, label=0), Record(picture=training.records[0].picture, label=1)),
    )
    report = check_pictures({"train": training, "test": other}, encode=knows_all, most_tokens=60, input_size=64)
    assert [item.classes for item in finding(report, "unknown_classes").items] == [("dog",)]
    assert [item.classes for item in finding(report, "unmeasured_classes").items] == [("anchor",), ("skull",)]
    assert finding(report, "conflicts").items[0].classes == ("anchor", "dog")  # and not cat, Cat


def test_folders_of_classes_taken_for_classes(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "all").mkdir()
    photos.rename(tmp_path / "all" / "train")
    for name in ("anchor", "cat"):
        (tmp_path / "all" / "extra" / name).mkdir(parents=True)
        for drawn in draw_set((name,), ("negative",), 1, 9):
            drawn.image.save(tmp_path / "all" / "extra" / name / "1.png")
    report = checked(tmp_path / "all")
    assert [item.classes[0] for item in finding(report, "nested").items] == ["extra", "train"]
    assert kinds(report)["nested"] == "serious"
    assert str(tmp_path / "all" / "train") in finding(report, "nested").advice


def test_deeper_folders_of_one_class_are_fine(photos: Path) -> None:
    for name in ("cat", "skull"):
        (photos / name / "2024").mkdir()
        for picture in sorted((photos / name).glob("*.png"))[:2]:
            picture.rename(photos / name / "2024" / picture.name)
    assert "nested" not in kinds(checked(photos))


class InMemory(StoredPicture):
    def __init__(self, name: str, content: bytes) -> None:
        self.name, self._content = name, content
        self.times_read = 0

    def read(self) -> bytes:
        self.times_read += 1
        return self._content


def test_pictures_inside_other_files(photos: Path) -> None:
    good = InMemory("pets.tar/cat.png", (photos / "cat" / "04.png").read_bytes())
    bad = InMemory("pets.tar/bad.png", b"no picture")
    empty = InMemory("pets.tar/empty.png", b"")
    looks = look_at([good, photos / "cat" / "04.png", bad, empty])
    assert looks[0].content == looks[1].content
    assert looks[0].size == (200, 200)
    assert looks[2].problem.startswith("is not a picture")
    assert "empty" in looks[3].problem
    assert good.times_read == 1


def test_no_warnings_and_progress(photos: Path) -> None:
    file = io.BytesIO()
    palette = Image.new("P", (50, 50))
    palette.info["transparency"] = b"\x00\x10"
    palette.save(file, "PNG", transparency=b"\x00\x10")
    for number in range(300):
        (photos / "cat" / f"p{number}.png").write_bytes(file.getvalue())
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = checked(photos, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 312), (312, 312)]
    assert len(finding(report, "copies").items[0].pictures) == 300
