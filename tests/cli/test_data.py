"""The verbs of ``promptmix data``: what they print, what they write, how they end."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptmix.backbones.registry import bundled_folder

Promptmix = Callable[..., Any]


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    """The pictures, free to be changed."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def test_check_of_good_pictures(promptmix: Promptmix, photos: Path) -> None:
    done = promptmix("data", "check", photos)
    done.works()
    assert "24 pictures of 3 classes" in done.out
    assert "Nothing to mend was found." in done.out
    assert f"next: promptmix train {photos} --out run" in done.out


def test_check_tells_all_at_once_and_ends_with_4(promptmix: Promptmix, copied: Path) -> None:
    (copied / "cat" / "cut.png").write_bytes((copied / "cat" / "08.png").read_bytes()[:200])
    (copied / "Anchor_").mkdir()
    (copied / "Anchor_" / "copy.png").write_bytes((copied / "skull" / "16.png").read_bytes())
    (copied / "empty").mkdir()
    done = promptmix("data", "check", copied)
    done.fails(4, "to be mended first", "cannot be read")
    lines = [line.strip() for line in done.out.splitlines()]
    assert "Training would stop, or could not work:" in lines
    assert "'Anchor', 'anchor'" in lines
    assert "'empty': 0 pictures" in lines
    assert any(line.startswith("cat/cut.png: is damaged or cut off") for line in lines)
    assert "Anchor_/copy.png = skull/16.png: 'Anchor', 'skull'" in lines
    assert "next:" not in done.out


def test_check_as_json_holds_every_case(promptmix: Promptmix, copied: Path) -> None:
    for number in range(9):
        (copied / "cat" / f"bad {number}.png").write_bytes(b"no picture")
    shown = promptmix("data", "check", copied)
    assert "and 4 more; --json lists all" in shown.out
    done = promptmix("data", "check", copied, "--json")
    done.fails(4, "cannot be read")
    said = json.loads(done.out)
    assert (said["pictures"], said["usable"], said["backbone"]) == ({"train": 33}, False, "bundled")
    bad = next(finding for finding in said["findings"] if finding["kind"] == "unreadable")
    assert len(bad["items"]) == bad["count"] == 9
    passed = promptmix("data", "check", copied, "--skip-bad", "--json")
    passed.works()
    assert json.loads(passed.out)["usable"] is True


def test_check_with_test_pictures(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    (test / "cat").mkdir(parents=True)
    shutil.copy(copied / "cat" / "08.png", test / "cat" / "leak.png")
    done = promptmix("data", "check", copied, "--test", test)
    done.works()
    assert "The numbers could not be trusted:" in done.out
    assert f"cat/08.png = {test}/cat/leak.png" in done.out
    assert "classes without test pictures" in done.out
    assert f"--test {test}" in done.out.splitlines()[-1]
    promptmix("data", "check", copied, "--test", test, "--strict").fails(4, "both in training and in test")
    (test / "dog").mkdir()
    shutil.copy(copied / "cat" / "09.png", test / "dog" / "1.png")
    unknown = promptmix("data", "check", copied, "--test", test)
    unknown.fails(4, "classes of the test pictures that the training pictures do not have")
    assert "'dog'" in unknown.out


def test_check_with_shots(promptmix: Promptmix, photos: Path) -> None:
    done = promptmix("data", "check", photos, "--shots", "8")
    done.works()
    assert "--shots 8 leaves no picture to measure on" in done.out
    promptmix("data", "check", photos, "--shots", "0").fails(3, "--shots 0")
    promptmix("data", "check", photos, "--hold-out", "1").fails(3, "--hold-out 1.0")


def test_check_knows_how_the_backbone_takes_pictures(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    Image.open(copied / "cat" / "08.png").resize((80, 400)).save(copied / "cat" / "long.png")
    assert "only the square in the middle is seen" in promptmix("data", "check", copied).out
    backbone = Path(shutil.copytree(bundled_folder(), tmp_path / "backbone"))
    config = json.loads((backbone / "config.json").read_text())
    config["preprocess"]["resize_mode"] = "squash"
    (backbone / "config.json").write_text(json.dumps(config))
    said = promptmix("data", "check", copied, "--backbone", backbone).out
    assert "squeezes them into a square" in said
    assert "the square in the middle" not in said


def test_check_reads_tables_and_class_files(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    codes = {"anchor": "n00000001", "cat": "n00000002", "skull": "n00000003"}
    rows = [f"{path},{codes[path.parent.name]}" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "pets.csv").write_text("\n".join(["image,label", *rows]) + "\n", encoding="utf-8")
    done = promptmix("data", "check", tmp_path / "pets.csv")
    done.works()
    assert "class names that are no words" in done.out
    (tmp_path / "names.yaml").write_text("\n".join(f"{code}: {name}" for name, code in codes.items()), encoding="utf-8")
    named = promptmix("data", "check", tmp_path / "pets.csv", "--classes", tmp_path / "names.yaml")
    named.works()
    assert "Nothing to mend was found." in named.out


def test_check_of_what_is_not_there(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    promptmix("data", "check", tmp_path / "nowhere").fails(4, "nowhere")
    promptmix("data", "check", photos, "--backbone", tmp_path / "nothing").fails(5, "nothing")


def test_check_and_train_agree_on_how_long_a_name_may_be(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    (copied / "cat").rename(copied / "_".join("x" * 99))  # a token each
    done = promptmix("data", "check", copied)
    done.fails(4, "no prompt has room")
    found = re.search(r"class names of more than (\d+) tokens", done.out)
    assert found
    most = int(found[1])
    (copied / "_".join("x" * 99)).rename(copied / "_".join("x" * most))
    promptmix("data", "check", copied).works()
    options = ("--shots", "1", "--epochs", "1")
    promptmix("train", copied, "--out", tmp_path / "fits", *options).works()
    (copied / "_".join("x" * most)).rename(copied / "_".join("x" * (most + 1)))
    promptmix("data", "check", copied).fails(4, "no prompt has room")
    promptmix("train", copied, "--out", tmp_path / "long", *options).fails(4, "shorten the name")


def test_split_and_train_on_it(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    shutil.copy(copied / "cat" / "08.png", copied / "cat" / "same.png")
    split, out = tmp_path / "split.json", tmp_path / "run"
    done = promptmix("data", "split", copied, "--out", split, "--shots", "4", "--seed", "3")
    done.works()
    assert "12 train + " in done.out
    assert f"next: promptmix train {copied} --split {split} --shots 4 --out run" in done.out
    parts = json.loads(split.read_text(encoding="utf-8"))["parts"]
    assert [len(parts[name]) for name in ("train", "test")] == [12, len(parts["test"])]
    promptmix("train", copied, "--split", split, "--shots", "4", "--out", out, "--method", "linear-probe").works()
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["split_hash"] == json.loads(split.read_text(encoding="utf-8"))["split_hash"]
    assert result["metrics"]["num_pictures"] == len(parts["test"])
    (copied / parts["test"][0][0]).write_bytes(b"another")
    promptmix("train", copied, "--split", split, "--out", tmp_path / "two").fails(4, parts["test"][0][0], "is not the picture")


def test_split_says_what_became_of_copies(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    shutil.copy(copied / "cat" / "08.png", copied / "cat" / "same.png")
    shutil.copy(copied / "cat" / "09.png", copied / "skull" / "stray.png")
    (copied / "anchor" / "bad.png").write_bytes(b"no picture")
    promptmix("data", "split", copied, "--out", tmp_path / "s.json").fails(4, "anchor/bad.png is not a picture", "--skip-bad")
    assert not (tmp_path / "s.json").exists()
    done = promptmix("data", "split", copied, "--out", tmp_path / "s.json", "--skip-bad")
    assert done.code == 0
    assert "left out" in done.err and "anchor/bad.png" in done.err
    assert "note: 2 pictures that look like another" in done.out
    assert "left out 2 pictures that are in two classes: cat/09.png, skull/stray.png" in done.out
    said = json.loads(promptmix("data", "split", copied, "--out", tmp_path / "t.json", "--skip-bad", "--json").out)
    assert (said["kept_together"], len(said["conflicts"]), len(said["unreadable"])) == (2, 2, 1)
    assert said["split_hash"] == json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["split_hash"]


def test_split_overwrites_only_when_told_to(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.json"
    mine = '{"format": "promptmix-split"}'
    out.write_text(mine, encoding="utf-8")
    promptmix("data", "split", photos, "--out", out).fails(4, "is there already", "--overwrite")
    assert out.read_text(encoding="utf-8") == mine
    promptmix("data", "split", photos, "--out", out, "--overwrite").works()
    assert json.loads(out.read_text(encoding="utf-8"))["format"] == "promptmix-split"
    promptmix("data", "split", photos, "--out", tmp_path, "--overwrite").fails(4, "is there already")


def test_unpack_and_what_to_run_next(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "photos.tar.gz", tmp_path / "my photos"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(photos, "photos")
    done = promptmix("data", "unpack", archive, "--out", out)
    done.works()
    assert "24 files" in done.out
    assert f"next: promptmix data check '{out}'" in done.out
    promptmix("data", "check", out).works()
    promptmix("data", "unpack", archive, "--out", out).fails(4, "nothing is overwritten")
    said = json.loads(promptmix("data", "unpack", archive, "--out", tmp_path / "again", "--json").out)
    assert (said["files"], said["sources"]) == (24, [str(tmp_path / "again")])


def test_unpack_with_names(promptmix: Promptmix, tmp_path: Path) -> None:
    for style in ("flat", "black"):
        with tarfile.open(tmp_path / f"{style}.tar", "w") as tar:
            for code in ("1F600", "1F601", "1F602"):
                file = io.BytesIO()
                Image.effect_noise((32, 32), 90).convert("RGB").save(file, "WEBP", lossless=True)
                info = tarfile.TarInfo(f"{code}.webp")
                info.size = len(file.getvalue())
                tar.addfile(info, io.BytesIO(file.getvalue()))
    (tmp_path / "names.csv").write_text("codepoint,name\n1F600,grinning face\n1F601,beaming face\n", encoding="utf-8")
    out = tmp_path / "emoji"
    done = promptmix(
        "data", "unpack", tmp_path / "flat.tar", tmp_path / "black.tar", "--names", tmp_path / "names.csv", "--out", out
    )
    assert done.code == 0
    assert "no row for 2 pictures" in done.err
    assert (out / "flat" / "grinning face" / "1F600.webp").is_file()
    assert f"next: promptmix data check {out}/black   (or another of the 2 folders of classes there)" in done.out


def test_unpack_refuses_what_is_not_to_be_trusted(promptmix: Promptmix, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../evil.jpg"))
    promptmix("data", "unpack", tmp_path / "evil.tar", "--out", tmp_path / "out").fails(4, "evil.tar", "leads out")
    promptmix("data", "unpack", tmp_path / "evil.tar", "--out", tmp_path / "out", "--max-gigabytes", "0").fails(3, "above 0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar"]


def test_real_pictures_from_archive_to_check(promptmix: Promptmix, shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "clothing.tar"
    if not archive.is_file():
        pytest.skip("clothing.tar is not in the folder beside the checkout")
    promptmix("data", "unpack", archive, "--out", tmp_path / "clothing").works()
    done = promptmix("data", "check", tmp_path / "clothing", "--strict", "--json")
    done.works()
    said = json.loads(done.out)
    assert said["pictures"] == {"train": 600, "test": 370}
    # Photographs, each its own, of things whose names are words that even the small backbone knows.
    assert said["findings"] == []


def test_split_replaces_nothing_but_a_split(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    for name, content in {"notes.json": b'{"mine": 1}', "list.json": b"[1]", "empty": b"", "odd": b"{\xff"}.items():
        (tmp_path / name).write_bytes(content)
    for out in (copied / "cat" / "08.png", *(tmp_path / name for name in ("notes.json", "list.json", "empty", "odd"))):
        before = out.read_bytes()
        promptmix("data", "split", copied, "--out", out, "--overwrite").fails(4, "no split file", "another --out")
        assert out.read_bytes() == before


def test_a_split_and_the_source_as_it_is_now(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in copied.rglob("*.png"))
    table, split = tmp_path / "pets.csv", tmp_path / "split.json"
    rows = {path: Path(path).parent.name for path in pictures}

    def write(rows: dict[str, str]) -> None:
        table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows.items()), encoding="utf-8")

    def trained(out: str, *options: str | Path) -> Any:
        return promptmix("train", table, "--split", split, "--out", tmp_path / out, "--method", "zero-shot", *options)

    write(dict(list(rows.items())[1:]))
    promptmix("data", "split", table, "--out", split).works()
    write(rows)  # one more now
    done = trained("more")
    done.works()
    assert "note: 1 pictures of the source are not in the split" in done.out
    write({**rows, pictures[-1]: "cat"})
    trained("relabelled").fails(4, f"{pictures[-1]} is 'cat' in {table} but 'skull' in {split}; make a new split")
    write(dict(list(rows.items())[:-1]))
    trained("fewer").fails(4, f"{pictures[-1]} is not there in {table} but 'skull'")
    write({path: label.replace("skull", "head") for path, label in rows.items()})
    trained("renamed").fails(4, "differ in 'head', 'skull'; read it as", "make a new split")
    write(rows)
    (tmp_path / "classes.txt").write_text("skull\ncat\nanchor\n", encoding="utf-8")
    trained("ordered", "--classes", tmp_path / "classes.txt").fails(4, "are in another order")


def test_a_run_among_the_pictures(promptmix: Promptmix, copied: Path, trained: Path, tmp_path: Path) -> None:
    promptmix("train", copied, "--out", copied / "run").fails(3, "lies in", "choose a folder elsewhere")
    promptmix("train", copied / "cat", "--test", copied, "--out", copied / "run").fails(3, "lies in")
    assert not (copied / "run").exists()
    shutil.copytree(trained, copied / "run")
    (copied / "run" / "plot.png").write_bytes((copied / "cat" / "08.png").read_bytes())
    done = promptmix("data", "check", copied)
    done.works()
    assert "24 pictures of 3 classes" in done.out


@pytest.mark.parametrize("arguments", [("train", "", "--out", "run"), ("data", "check", ""), ("predict", "model", "")])
def test_an_empty_text_is_not_the_current_folder(
    promptmix: Promptmix, copied: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(copied)
    promptmix(*arguments).fails(3, "'' is no source of pictures", "write . for the current folder")
