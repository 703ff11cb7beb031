"""train, eval and predict with pictures from every kind of source, and the line that is said of each that is wrong."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix import PromptClassifier
from promptmix.data.read import read_pictures

Promptmix = Callable[..., Any]
KINDS = ["folder", "parts", "csv", "jsonl", "parquet", "saved", "tar", "labelled tar", "shards"]


def part_of(path: Path) -> str:
    """Of the eight pictures of a class the first five are to learn from, one to choose with and two to measure on."""
    return (*["train"] * 5, "val", "test", "test")[int(path.stem) % 8]


def made(kind: str, photos: Path, folder: Path) -> Path:
    """The drawn pictures as a source of this kind."""
    pictures = sorted(photos.rglob("*.png"))
    rows = [{"path": str(path), "label": path.parent.name, "split": part_of(path)} for path in pictures]
    if kind == "folder":
        return photos
    if kind == "parts":
        for path in pictures:
            to = folder / "parts" / part_of(path) / path.parent.name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
        return folder / "parts"
    if kind == "csv":
        with (folder / "list.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return folder / "list.csv"
    if kind == "jsonl":
        (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        return folder / "list.jsonl"
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet here")
        import pyarrow
        from pyarrow import parquet

        cells = [{"image": {"bytes": path.read_bytes(), "path": None}, **row} for path, row in zip(pictures, rows, strict=True)]
        parquet.write_table(pyarrow.Table.from_pylist(cells), folder / "list.parquet", row_group_size=10)
        return folder / "list.parquet"
    if kind == "saved":
        datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
        datasets.disable_progress_bars()
        names = sorted({path.parent.name for path in pictures})
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        splits = {}
        for part in ("train", "validation", "test"):
            own = [path for path in pictures if part.startswith(part_of(path))]
            columns = {"image": [str(path) for path in own], "label": [names.index(path.parent.name) for path in own]}
            splits[part] = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict(splits).save_to_disk(folder / "saved")
        return folder / "saved"
    if kind == "tar":
        with tarfile.open(folder / "all.tar", "w") as archive:
            for path in pictures:
                archive.add(path, f"all/{part_of(path)}/{path.parent.name}/{path.name}")
        return folder / "all.tar"
    shards = folder / "shards"
    shards.mkdir()
    for part in ("train", "val", "test"):
        own = pictures if kind == "labelled tar" else [path for path in pictures if part_of(path) == part]
        with tarfile.open(shards / ("all.tar" if kind == "labelled tar" else f"pets-{part}-0000.tar"), "w") as archive:
            for number, path in enumerate(own):
                archive.add(path, f"{number:06}.png")
                (folder / "x.cls").write_text(path.parent.name)
                archive.add(folder / "x.cls", f"{number:06}.cls")
    return shards / "all.tar" if kind == "labelled tar" else shards


@pytest.mark.parametrize("kind", KINDS)
def test_train_eval_and_predict_from_every_kind_of_source(promptmix: Promptmix, photos: Path, tmp_path: Path, kind: str) -> None:
    source, out = made(kind, photos, tmp_path), tmp_path / "run"
    split = kind not in ("folder", "labelled tar")
    trained = promptmix("train", source, "--out", out, "--method", "zero-shot", "--json")
    trained.works()
    result = json.loads(trained.out)
    assert result["metrics"]["num_pictures"] == (6 if split else 3)
    assert sorted(result["metrics"]["per_class"]) == ["anchor", "cat", "skull"]
    assert any("the val part (3 pictures) was not used" in note for note in result["notes"]) == split
    assert ("the test part" in result["data"]) == split
    rows = json.loads((out / "split.json").read_text())["parts"]
    assert {part: len(rows[part]) for part in rows} == ({"train": 15, "test": 6} if split else {"train": 21, "test": 3})
    assert all(not row[0].startswith("/") for part in rows.values() for row in part)
    with (out / "predictions.csv").open() as file:
        assert not any(row["path"].startswith("picture ") for row in csv.DictReader(file))

    evaluated = promptmix("eval", out, source, "--json")
    evaluated.works()
    said = json.loads(evaluated.out)
    assert said["metrics"]["num_pictures"] == (6 if split else 24)
    assert said["measured_on"] == (f"{source}, test part" if split else str(source))
    if split:
        assert said["metrics"] == result["metrics"]
        on_val = promptmix("eval", out, source, "--part", "validation")
        on_val.works()
        assert f"measured on 3 pictures of {source}, val part, 3 classes" in on_val.out

    predicted = promptmix("predict", out, source, "--json")
    predicted.works()
    paths = [json.loads(line)["path"] for line in predicted.out.splitlines()]
    assert len(set(paths)) == 24


def test_all_kinds_of_sources_give_the_same_numbers(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    sums = set()
    for kind in ("parts", "csv", "tar", "shards"):
        folder = tmp_path / kind
        folder.mkdir()
        source = made(kind, photos, folder)
        done = promptmix("train", source, "--out", folder / "run", "--method", "linear-probe", "--json")
        done.works()
        sums.add(json.dumps(json.loads(done.out)["metrics"], sort_keys=True))
    assert len(sums) == 1


def test_the_mixture_learns_from_an_archive(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    source = made("labelled tar", photos, tmp_path)
    arguments = ("train", source, "--out", tmp_path / "run", "--shots", "2", "--epochs", "1", "--json")
    done = promptmix(*arguments)
    done.works()
    assert json.loads(done.out)["metrics"]["num_pictures"] == 18
    again = promptmix(*arguments, "--resume")
    assert again.code == 0, again
    assert json.loads(again.out)["metrics"] == json.loads(done.out)["metrics"]


def test_test_pictures_from_another_source(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    source = made("csv", photos, tmp_path)
    done = promptmix("train", photos, "--out", tmp_path / "a", "--method", "zero-shot", "--test", source)
    done.works()
    assert f"measured on the test part of {source}" in done.out
    only = promptmix("train", source, "--out", tmp_path / "b", "--method", "zero-shot", "--test", photos, "--json")
    only.works()
    result = json.loads(only.out)
    assert result["metrics"]["num_pictures"] == 24
    assert f"measured on the pictures of {photos}" in result["data"]


def test_columns_and_classes_are_options(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    pictures = sorted(photos.rglob("*.png"))
    numbers = {"skull": 0, "cat": 1, "anchor": 2}
    lines = [f"{path},{numbers[path.parent.name]},x" for path in pictures]
    (tmp_path / "list.csv").write_text("where,what,label\n" + "\n".join(lines))
    (tmp_path / "classes.txt").write_text("skull\ncat\nanchor\n")
    source, out = tmp_path / "list.csv", tmp_path / "run"
    columns = ("--image-column", "where", "--label-column", "what")
    zero_shot = ("--out", out, "--method", "zero-shot")
    promptmix("train", source, *zero_shot).fails(4, "no column of pictures", "where, what, label", "--image-column")
    promptmix("train", source, *zero_shot, *columns[:2], "--label-column", "wat").fails(
        3, "no column 'wat'; did you mean 'what'?"
    )
    promptmix("train", source, *zero_shot, *columns).fails(4, "is a number", "--classes FILE")
    promptmix("train", source, *zero_shot, *columns, "--classes", tmp_path / "gone").fails(4, "gone", "check the path")
    promptmix("train", photos, *zero_shot, *columns).fails(3, "has no columns")
    assert not out.exists()
    promptmix("train", source, *zero_shot, *columns, "--classes", tmp_path / "classes.txt").works()
    assert promptmix("classes", "list", out).out.split() == ["skull", "cat", "anchor"]
    promptmix("eval", out, source, *columns).fails(4, "is a number", "--classes FILE")
    by_table = promptmix("eval", out, source, *columns, "--classes", tmp_path / "classes.txt", "--json")
    by_folder = promptmix("eval", out, photos, "--json")
    by_table.works()
    by_folder.works()
    # The order of the pictures is another, and with it the last bit of a sum.
    table_metrics, folder_metrics = (
        json.loads(done.out, parse_float=lambda text: round(float(text), 12))["metrics"] for done in (by_table, by_folder)
    )
    assert table_metrics == folder_metrics
    said = promptmix("predict", out, source, "--image-column", "where", "--csv")
    said.works()
    assert len(said.out.splitlines()) == 25


def test_classes_with_words_of_their_own(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("skull: a skull of bones\ncat: [house cat, pussy cat]\nanchor: an anchor of iron\n")
    options = ("--method", "zero-shot", "--classes", tmp_path / "classes.yaml")
    promptmix("train", photos, "--out", tmp_path / "run", *options).works()
    assert promptmix("classes", "list", tmp_path / "run").out.splitlines() == [
        "a skull of bones",
        "house cat",
        "an anchor of iron",
    ]
    promptmix("eval", tmp_path / "run", photos).fails(4, "anchor is not a known class", "did you mean")
    done = promptmix("eval", tmp_path / "run", photos, "--classes", tmp_path / "classes.yaml")
    done.works()
    assert "measured on 24 pictures" in done.out


def test_sources_that_cannot_be_used_are_one_line(promptmix: Promptmix, trained: Path, photos: Path, tmp_path: Path) -> None:
    parts = made("parts", photos, tmp_path)
    promptmix("eval", trained, parts, "--part", "tset").fails(4, "'tset' is no part", "did you mean 'test'?")
    promptmix("eval", trained, photos, "--part", "test").fails(4, "has no test part; it has train")
    shutil.copytree(parts, tmp_path / "measure", ignore=shutil.ignore_patterns("train"))
    promptmix("train", tmp_path / "measure", "--out", tmp_path / "out").fails(4, "no train part to learn from; it has val, test")
    shutil.rmtree(parts / "test")
    promptmix("eval", trained, parts).fails(4, "parts train, val but no test part", "--part")
    (tmp_path / "only.csv").write_text(
        f"path,label,split\n{photos / 'cat' / '08.png'},cat,test\n{photos / 'skull' / '16.png'},skull,test\n"
    )
    promptmix("train", tmp_path / "only.csv", "--out", tmp_path / "out").fails(4, "no train part to learn from; it has test")
    (tmp_path / "a.tgz").write_bytes(b"\x1f\x8b....")
    promptmix("train", tmp_path / "a.tgz", "--out", tmp_path / "out").fails(4, "is compressed (gzip)", "plain .tar")
    promptmix("predict", trained, tmp_path / "a.tgz").fails(4, "is compressed (gzip)")
    promptmix("train", "hf:what/is/this", "--out", tmp_path / "out").fails(4, "write hf:owner/name")
    promptmix("train", tmp_path / "gone.csv", "--out", tmp_path / "out").fails(4, "there is no file", "gone.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hf:owner/there-is-no-such", "hf:owner/there-is-no-such@v1"])
def test_the_hub_without_a_network(promptmix: Promptmix, trained: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    promptmix("train", name, "--out", tmp_path / "out").fails(4, name, "HF_HUB_OFFLINE is set", "check name and network")
    promptmix("predict", trained, name).fails(4, name, "HF_HUB_OFFLINE is set")


def test_the_result_names_the_commit_of_a_data_set(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    commit = "0123456789abcdef" * 2 + "01234567"
    # Where a data set of the hub lies once it was downloaded; the hub itself is never asked in tests.
    shutil.copytree(made("saved", photos, tmp_path), tmp_path / commit)
    splits = {part: datasets.load_from_disk(str(tmp_path / "saved" / part)) for part in ("train", "test")}
    for part, data in splits.items():
        (file,) = (tmp_path / "saved" / part).glob("*.arrow")
        splits[part] = datasets.Dataset.from_file(str(shutil.copy(file, tmp_path / commit / f"{part}.arrow")), info=data.info)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(splits))
    done = promptmix("train", "hf:owner/pets", "--out", tmp_path / "run", "--method", "zero-shot", "--json")
    done.works()
    assert f"the pictures are of hf:owner/pets@{commit}" in json.loads(done.out)["notes"]


def test_a_picture_of_an_archive_that_is_damaged(promptmix: Promptmix, trained: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("anchor", "cat", "skull"):
            for path in sorted((photos / name).iterdir()):
                archive.add(path, f"{name}/{path.name}")
        archive.add(tmp_path / "broken.png", "cat/broken.png")
    promptmix("eval", trained, tmp_path / "a.tar").fails(4, "a.tar/cat/broken.png is not a picture", "--skip-bad")
    done = promptmix("eval", trained, tmp_path / "a.tar", "--skip-bad")
    assert done.code == 0, done
    assert "measured on 24 pictures" in done.out
    predicted = promptmix("predict", trained, tmp_path / "a.tar")
    assert predicted.code == 4
    assert len(predicted.out.splitlines()) == 24
    assert "a.tar/cat/broken.png" in predicted.err


def test_the_estimator_takes_every_source(photos: Path, tmp_path: Path) -> None:
    source = made("tar", photos, tmp_path)
    classifier = PromptClassifier("linear-probe").fit(source)
    assert list(classifier.classes_) == ["anchor", "cat", "skull"]
    tests = read_pictures(source, part="test")
    assert classifier.score(source) == classifier.score(tests)
    right = [said == tests.class_names[label] for said, label in zip(classifier.predict(tests), tests.labels, strict=True)]
    assert classifier.score(str(source)) == sum(right) / 6
    assert len(classifier.predict(source)) == 24
    again = PromptClassifier("linear-probe").fit(read_pictures(source, part="train"))
    assert (again.predict_proba(tests) == classifier.predict_proba(tests)).all()
