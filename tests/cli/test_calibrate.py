"""Calibrating from the command line: on left-out shots and on pictures of one's own, what predict and eval make of it, what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix.data.pictograms import draw_set
from promptmix.model_folder import read_model

Promptmix = Callable[..., Any]
CLASSES = ("anchor", "cat", "skull", "umbrella")


def drawn(folder: Path, per_style: int, seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
    for number, one in enumerate(draw_set(classes, ("stamp", "neon"), per_style, seed)):
        (folder / one.class_name).mkdir(parents=True, exist_ok=True)
        one.image.save(folder / one.class_name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("shots"), 4, 1)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("others"), 5, 2)


@pytest.fixture(scope="module")
def made(promptmix: Promptmix, shots: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated run."""
    out = tmp_path_factory.mktemp("made") / "run"
    asked = ("--method", "tip-adapter", "--abstain", "coverage=0.7", "--label-sets", "0.8")
    done = promptmix("train", shots, "--test", others, "--out", out, *asked)
    done.works()
    for words in (
        "calibrated on 32 training pictures, each left out of one of 5 models",
        "for a coverage of 70.0 %:",
        "label sets of all classes from",
        "note: fitted on the shots, left out in turn",
        "on the 40 test pictures: calibration error",
        "of the true classes found",
    ):
        assert words in done.out
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_has_the_calibration_its_record_and_its_plot(promptmix: Promptmix, made: Path) -> None:
    record = json.loads((made / "calibration.json").read_text())
    stored = read_model(made).calibration
    assert stored is not None
    assert record["calibration"] == stored.model_dump(mode="json")
    assert record["measured"]["after"]["num_pictures"] == 40
    assert (made / "reliability.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(promptmix("info", made, "--json").out)
    assert facts["calibration"] == record["calibration"]


def test_eval_measures_what_is_stored(promptmix: Promptmix, made: Path, others: Path) -> None:
    told = json.loads(promptmix("eval", made, others, "--json").out)
    measured = json.loads((made / "calibration.json").read_text())["measured"]
    assert told["metrics"] == measured["after"]
    assert told["uncalibrated"] == measured["before"]
    assert told["answers"] == {name: measured[name] for name in told["answers"]}
    assert told["answers"].keys() >= {"answer_coverage", "set_coverage", "set_size", "label_recall"}
    text = promptmix("eval", made, others).out
    assert "calibrated: without that the calibration error would be" in text
    assert "hold the true class" in text


def test_predict_says_none_of_these_and_label_sets(promptmix: Promptmix, made: Path, others: Path, tmp_path: Path) -> None:
    strange = drawn(tmp_path / "strange", 3, 3, ("chess bishop", "retort", "star", "monkey"))
    rule = read_model(made).calibration
    assert rule is not None and rule.abstain is not None and rule.label_sets is not None
    lines = [json.loads(line) for line in promptmix("predict", made, others, strange, "--json").out.splitlines()]
    for line in lines:
        best = line["top"][0]
        assert line["abstained"] == (best["probability"] < rule.abstain.minimum_probability)
        assert line["class"] == ("none of these" if line["abstained"] else best["class"])
        wanted = [one["class"] for one in line["top"] if one["probability"] >= rule.label_sets.minimum_probability]
        assert line["label_set"] == (wanted or [best["class"]])
        assert "labels" not in line
    # Pictures of no class of the model are oftener left without an answer.
    unanswered = [sum(line["abstained"] for line in part) / len(part) for part in (lines[:40], lines[40:])]
    assert unanswered[0] < 0.5 < unanswered[1]
    rows = list(csv.DictReader(io.StringIO(promptmix("predict", made, others, strange, "--csv").out)))
    assert [row["prediction"] for row in rows] == [line["class"] for line in lines]
    assert [row["label_set"].split("; ") for row in rows] == [line["label_set"] for line in lines]
    text = promptmix("predict", made, others, strange).out.splitlines()
    assert ["none of these (most likely " in line for line in text] == [line["abstained"] for line in lines]
    assert all("   one of: " in line for line in text)


def test_predict_says_all_classes_that_are_there(promptmix: Promptmix, made: Path, others: Path) -> None:
    lines = [json.loads(line) for line in promptmix("predict", made, others, "--multi-label", "--json").out.splitlines()]
    rule = read_model(made).calibration
    assert rule is not None and rule.multi_label is not None
    thresholds = dict(zip(CLASSES, rule.multi_label.thresholds, strict=True))
    for line in lines:
        values = [one["probability"] for one in line["labels"]]
        assert values == sorted(values, reverse=True)
        assert all(one["probability"] >= thresholds[one["class"]] for one in line["labels"])
    rows = list(csv.DictReader(io.StringIO(promptmix("predict", made, others, "--multi-label", "--csv").out)))
    said = [[one["class"] for one in line["labels"]] for line in lines]
    assert [row["labels"] for row in rows] == ["; ".join(names) or "none of these" for names in said]
    text = promptmix("predict", made, others, "--multi-label").out.splitlines()
    assert len(text) == len(lines) == 40
    true = [Path(line["path"]).parent.name in names for line, names in zip(lines, said, strict=True)]
    assert sum(true) > 20


def test_part_files_say_what_predict_prints(promptmix: Promptmix, made: Path, others: Path, tmp_path: Path) -> None:
    strange = drawn(tmp_path / "strange", 3, 3, ("chess bishop", "retort", "star", "monkey"))
    asked = ("predict", made, others, strange, "--multi-label")
    lines = [json.loads(line) for line in promptmix(*asked, "--json", "--no-cache").out.splitlines()]
    assert {line["class"] == "none of these" for line in lines} == {True, False}
    promptmix(*asked, "--out", tmp_path / "csv", "--format", "csv", "--rows-per-file", "30").works()
    rows = [
        row
        for path in sorted((tmp_path / "csv").glob("part-*"))
        for row in csv.DictReader(io.StringIO(path.read_text(), newline=""))
    ]
    for row, line in zip(rows, lines, strict=True):
        assert row["class"] == line["class"]
        assert row["class_1"] == line["top"][0]["class"]
        assert row["abstained"] == str(line["abstained"]).lower()
        assert row["label_set"].split("; ") == line["label_set"]
        assert row["labels"] == "; ".join(one["class"] for one in line["labels"])
        values = [float(value) for value in row["label_probabilities"].split("; ") if value]
        assert values == pytest.approx([one["probability"] for one in line["labels"]], abs=1e-5)
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: no Parquet here")
    promptmix(*asked, "--out", tmp_path / "parquet").works()
    table = parquet.ParquetFile(tmp_path / "parquet" / "part-00000.parquet").read().to_pylist()
    for row, line in zip(table, lines, strict=True):
        assert (row["class"], row["abstained"], row["label_set"]) == (line["class"], line["abstained"], line["label_set"])
        assert row["labels"] == [one["class"] for one in line["labels"]]
        assert row["label_probabilities"] == pytest.approx([one["probability"] for one in line["labels"]], abs=1e-5)


def test_part_files_of_several_labels_are_another_job(promptmix: Promptmix, run: Path, others: Path, tmp_path: Path) -> None:
    bulk = ("predict", run, others, "--out", tmp_path / "said", "--format", "csv")
    promptmix(*bulk).works()
    assert "label_set" in (tmp_path / "said" / "part-00000.csv").read_text().splitlines()[0]
    assert "labels" not in (tmp_path / "said" / "part-00000.csv").read_text().splitlines()[0]
    promptmix(*bulk, "--multi-label").fails(3, "holds another job (without --multi-label)")
    promptmix("calibrate", run, "--remove").works()
    promptmix(*bulk, "--multi-label", "--overwrite").fails(3, "no thresholds for --multi-label", "promptmix calibrate")
    promptmix(*bulk, "--overwrite").works()
    head = (tmp_path / "said" / "part-00000.csv").read_text().splitlines()[0]
    assert not {"abstained", "label_set", "labels"} & set(head.split(","))


def test_without_a_calibration_nothing_changes(promptmix: Promptmix, run: Path, others: Path) -> None:
    calibrated = promptmix("predict", run, others, "--json").out
    promptmix("calibrate", run, "--remove").works()
    assert not (run / "calibration.json").exists() and not (run / "reliability.png").exists()
    lines = [json.loads(line) for line in promptmix("predict", run, others, "--json").out.splitlines()]
    assert all(line.keys() == {"path", "class", "probability", "top", "experts"} for line in lines)
    assert promptmix("predict", run, others, "--csv").out.startswith("path,prediction,probability,margin,experts\r\n")
    assert "uncalibrated" not in json.loads(promptmix("eval", run, others, "--json").out)
    promptmix("predict", run, others, "--multi-label").fails(3, "no thresholds for --multi-label", "promptmix calibrate")
    # And comes back from the left-out shots as it was.
    promptmix("calibrate", run, "--abstain", "coverage=0.7", "--label-sets", "0.8").works()
    assert promptmix("predict", run, others, "--json").out == calibrated


def test_other_targets_need_no_other_training(promptmix: Promptmix, run: Path) -> None:
    before = read_model(run).calibration
    done = promptmix("calibrate", run, "--abstain", "precision=0.6", "--temperature", "likelihood", "--json")
    done.works()
    after = read_model(run).calibration
    assert before is not None and after is not None and after.abstain is not None
    assert json.loads(done.out)["calibration"] == after.model_dump(mode="json")
    assert (after.abstain.target, after.abstain.confidence, after.label_sets) == ("precision", 0.9, None)
    assert (before.criterion, after.criterion, after.num_pictures) == ("accuracy", "likelihood", before.num_pictures)
    assert after.temperature != before.temperature
    promptmix("calibrate", run, "--abstain", "precision=0.999").fails(3, "cannot be shown on 32 pictures", "the most that can")
    assert read_model(run).calibration == after
    promptmix("calibrate", run, "--label-sets", "0.99").fails(4, "need at least 99 pictures, but there are 32")


def test_a_model_is_calibrated_on_pictures_of_ones_own(promptmix: Promptmix, run: Path, others: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    model = tmp_path / "model"
    promptmix("calibrate", model).fails(4, "no left-out shots beside this model", "promptmix calibrate MODEL SOURCE")
    promptmix("calibrate", model, others).works()
    stored = read_model(model).calibration
    assert stored is not None
    assert (stored.num_pictures, stored.num_rule_pictures, stored.cross_fitted) == (40, 40, False)
    done = promptmix("calibrate", model, others, "--label-sets", "0.8")
    done.works()
    assert "the temperature on one half" in done.out
    assert "note:" not in done.out
    stored = read_model(model).calibration
    assert stored is not None and stored.held_apart
    assert (stored.num_pictures, stored.num_rule_pictures) == (20, 20)
    assert {path.name for path in model.iterdir()} == {path.name for path in (run / "model").iterdir()}


def test_pictures_that_the_model_has_learnt_from_are_refused(
    promptmix: Promptmix, run: Path, shots: Path, others: Path, tmp_path: Path
) -> None:
    before = read_model(run).calibration
    promptmix("calibrate", run, shots).fails(4, "has learnt from 32 of the 32 pictures of", "train with --calibrate")
    mixed = Path(shutil.copytree(others, tmp_path / "mixed"))
    shutil.copy(sorted((shots / "cat").iterdir())[0], mixed / "cat" / "under another name.png")
    (mixed / "cat" / "broken.png").write_bytes(b"no picture")
    promptmix("calibrate", run, mixed, "--skip-bad").fails(4, "has learnt from 1 of the 42 pictures of", "under another name.png")
    assert read_model(run).calibration == before
    (mixed / "cat" / "under another name.png").unlink()
    assert promptmix("calibrate", run, mixed, "--skip-bad").code == 0
    stored = read_model(run).calibration
    assert stored is not None
    assert stored.fitted_on.startswith("40 pictures of ")  # the broken one is not counted
    # A method that learns nothing may be asked about any picture.
    zero = ("train", shots, "--out", tmp_path / "zero", "--method", "zero-shot")
    promptmix(*zero).works()
    promptmix("calibrate", tmp_path / "zero", shots).works()


def test_classes_without_pictures_are_told_of(promptmix: Promptmix, run: Path, others: Path, tmp_path: Path) -> None:
    for name in CLASSES[:2]:
        shutil.copytree(others / name, tmp_path / "some" / name)
    done = promptmix("calibrate", run, tmp_path / "some")
    assert done.code == 0
    assert "has no picture of skull, umbrella; what is fitted may not hold where these classes come too" in done.err
    assert "has no picture" not in promptmix("calibrate", run, others).err


def test_the_val_part_is_there_to_calibrate_on(promptmix: Promptmix, run: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "parts" / "train", 1, 4)
    drawn(tmp_path / "parts" / "val", 2, 5)
    drawn(tmp_path / "parts" / "test", 3, 6)
    for options, count in (((), 16), (("--part", "test"), 24)):
        promptmix("calibrate", run, tmp_path / "parts", *options).works()
        stored = read_model(run).calibration
        assert stored is not None
        assert stored.num_pictures == count


def test_other_classes_keep_what_still_holds(promptmix: Promptmix, run: Path, others: Path) -> None:
    before = read_model(run).calibration
    added = promptmix("classes", "add", run, "heart")
    assert added.code == 0
    assert "'none of these' and label sets held for the classes as they were, and are gone" in added.err
    after = read_model(run).calibration
    assert before is not None and after is not None
    assert (after.temperature, after.abstain, after.label_sets) == (before.temperature, None, None)
    assert before.multi_label is not None and after.multi_label is not None
    assert after.multi_label.thresholds == (*before.multi_label.thresholds, before.multi_label.shared_threshold)
    promptmix("classes", "remove", run, "cat").works()  # there is nothing left to tell of
    left = read_model(run).calibration
    assert left is not None and left.multi_label is not None
    assert left.multi_label.thresholds == tuple(after.multi_label.thresholds[place] for place in (0, 2, 3, 4))
    promptmix("predict", run, others, "--multi-label").works()
    promptmix("calibrate", run).fails(4, "the model has other classes than when", "promptmix calibrate MODEL SOURCE")


def test_other_words_for_a_class_make_what_was_said_of_the_shots_worthless(
    promptmix: Promptmix, run: Path, shots: Path, others: Path
) -> None:
    described = promptmix("classes", "rename", run, "cat", "cat", "--synonym", "kitten")
    assert described.code == 0
    assert "are gone; promptmix calibrate fits them anew" in described.err
    promptmix("calibrate", run).fails(4, "or other words for them", "promptmix calibrate MODEL SOURCE")
    train = ("train", shots, "--test", others, "--out", run, "--method", "tip-adapter", "--resume", "--calibrate")
    resumed = promptmix(*train)
    assert resumed.code == 4 and "has other classes by now" in resumed.err
    promptmix("calibrate", run, others, "--label-sets", "0.8").works()
    stored = read_model(run).calibration
    assert stored is not None and not stored.classes_changed


def test_a_finished_run_is_calibrated_when_it_is_resumed(promptmix: Promptmix, shots: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train = ("train", shots, "--out", out, "--method", "tip-adapter", "--shots", "3", "--resume")
    assert promptmix(*train).code == 0
    assert read_model(out).calibration is None
    done = promptmix(*train, "--calibrate", "--json")
    assert done.code == 0
    stored = read_model(out).calibration
    assert stored is not None
    told = json.loads(done.out)
    assert told["calibration"] == stored.model_dump(mode="json")
    assert told["calibration_measured"]["after"]["num_pictures"] == 20
    assert promptmix(*train[:-1], "--overwrite").code == 0
    assert read_model(out).calibration is None
    assert not {"left_out.safetensors", "calibration.json", "reliability.png"} & {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--shots", "1", "--calibrate"), 4, "one training picture a class, so that none can be left out"),
        (("--abstain", "precision:0.9"), 3, "--abstain 'precision:0.9' is no target; did you mean 'precision=0.9'"),
        (("--label-sets", "95"), 3, "--label-sets 95.0 is no share between 0 and 1"),
    ],
)
def test_what_cannot_be_calibrated_is_told_before_anything_is_learnt(
    promptmix: Promptmix, shots: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    promptmix("train", shots, "--out", tmp_path / "run", *options).fails(code, words)
    assert not (tmp_path / "run").exists()


def test_a_target_out_of_reach_leaves_the_trained_model(promptmix: Promptmix, shots: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = promptmix("train", shots, "--out", out, "--method", "tip-adapter", "--abstain", "precision=0.99")
    done.fails(3, "cannot be shown", f"The model is trained, but not calibrated: promptmix calibrate {out}")
    assert read_model(out).calibration is None
    promptmix("calibrate", out, "--abstain", "coverage=0.9").works()


def test_removing_goes_alone(promptmix: Promptmix, made: Path) -> None:
    done = promptmix("calibrate", made, "--remove", "--label-sets", "0.9")
    assert done.code == 2
    assert "give it alone" in done.err


def test_a_model_whose_features_depend_on_the_picture(promptmix: Promptmix, shots: Path, others: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    promptmix("train", shots, "--out", out, "--method", "cocoop", "--shots", "2", "--epochs", "1", "--calibrate").works()
    stored = read_model(out).calibration
    assert stored is not None
    assert "2 models" in stored.fitted_on or "5 models" in stored.fitted_on
    promptmix("predict", out, others / "cat").works()
