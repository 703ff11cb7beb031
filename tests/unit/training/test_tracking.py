"""A run told to sinks made up here: every step once, whatever is stopped and whatever fails, and nothing that is a path."""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix import PromptClassifier
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.config import parse_config
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import ConfigError, DataError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.methods.base import Recipe
from promptmix.training import run as run_module
from promptmix.training import run_key, sinks, tracking
from promptmix.training.fit import RunConfig
from promptmix.training.run import Outcome, run
from promptmix.training.sinks import LoggedStep, TrackedRun, sink_names

CLASSES = ("anchor", "cat")
STEPS = 12  # three epochs of four


class Noted:
    """A sink that remembers what it is told, over all the processes that a test stands for."""

    def __init__(self) -> None:
        self.opened: list[tuple[TrackedRun, int]] = []
        self.told: list[LoggedStep] = []
        self.results: list[tuple[dict[str, float], int]] = []
        self.closed: list[bool] = []

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        assert (folder / "state.json").is_file()
        self.opened.append((run, first))

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        self.told += steps

    def result(self, values: Mapping[str, float], number: int) -> None:
        self.results.append((dict(values), number))

    def close(self, finished: bool) -> None:
        self.closed.append(finished)

    @property
    def numbers(self) -> list[int]:
        return [step.number for step in self.told]


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    sink = Noted()
    monkeypatch.setitem(sinks.SINKS, "noted", lambda: sink)
    monkeypatch.setattr(tracking, "_SECONDS_BETWEEN_TELLINGS", 0.0)
    return sink


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="module")
def pictures() -> LabelledPictures:
    drawn = draw_set(CLASSES, ("stamp", "cross-stitch"), 4, 1)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def config_with(*names: str, **more: Any) -> RunConfig:
    recipe = {"epochs": 3, "batch_size": 4}
    return RunConfig.model_validate({"method": "coop", "recipe": recipe, "augmentation": {"views": 0}, "log_to": names, **more})


@pytest.fixture(scope="module")
def plain(backbone: Backbone, pictures: LabelledPictures) -> Outcome:
    """The run that is told to nobody."""
    return run(config_with(), pictures, backbone=backbone, cache=FeatureCache())


def same_model(one: Outcome, other: Outcome) -> bool:
    return all(torch.equal(value, other.model.learnt[name]) for name, value in one.model.learnt.items())


@pytest.mark.parametrize("given", ["wandb,mlflow", " wandb , mlflow,", ["wandb", "mlflow", "wandb"], ("wandb,mlflow",)])
def test_names_come_as_a_list_or_with_commas(given: object) -> None:
    assert sink_names(given) == ("wandb", "mlflow")
    assert RunConfig.model_validate({"log_to": given}).log_to == ("wandb", "mlflow")
    assert parse_config(RunConfig, {"log_to": given}, "options").log_to == ("wandb", "mlflow")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("tensorbord", "no such place to log to: 'tensorbord'; did you mean 'tensorboard'? Allowed: tensorboard, wandb, mlflow"),
        (["wandb", 3], "no such place to log to: '3'; Allowed: tensorboard, wandb, mlflow"),
        (None, "names with commas between them; allowed: tensorboard, wandb, mlflow"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(given: object, told: str) -> None:
    with pytest.raises(ConfigError) as problem:
        parse_config(RunConfig, {"log_to": given}, "options")
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_told_before_any_work(
    name: str, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=rf"^--log-to {name} needs .* pip install 'promptmix\[track\]'$"):
        run(config_with(name), pictures, backbone=backbone, cache=FeatureCache(), out=out)
    assert not out.exists()


def test_every_step_is_told_with_its_values_and_then_the_result(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path
) -> None:
    outcome = run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    assert noted.numbers == list(range(STEPS))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for step in noted.told:
        values = step.values
        assert set(values) == {f"train/{name}" for name in ("classification", "loss", "accuracy", "rate", "epoch", "seconds")}
        assert values["train/epoch"] == step.number // 4
        assert values["train/rate"] == log[step.number // 4]["rate"]
        assert values["train/classification"] == pytest.approx(values["train/loss"])
    for epoch, line in enumerate(log):
        of_epoch = [step.values for step in noted.told[4 * epoch : 4 * epoch + 4]]
        assert sum(values["train/loss"] for values in of_epoch) / 4 == pytest.approx(line["loss"])
        assert of_epoch[-1]["train/accuracy"] == pytest.approx(line["accuracy"])
        assert of_epoch[-1]["train/classification"] == pytest.approx(line["last_classification"])
    times = [step.values["train/seconds"] for step in noted.told]
    assert times == sorted(times)
    ((values, number),) = noted.results
    assert number == STEPS
    metrics, zero_shot = outcome.result.metrics, outcome.result.zero_shot
    for name in ("accuracy", "expected_calibration_error", "negative_log_likelihood"):
        assert (values[f"result/{name}"], values[f"zero_shot/{name}"]) == (metrics[name], zero_shot[name])
    assert values["result/num_trained_parameters"] == outcome.result.num_trained_parameters
    assert values["seconds/training"] == outcome.result.seconds["training"]
    assert noted.closed == [True]
    assert outcome.result.config["log_to"] == ["noted"]


def test_the_settings_are_flat_and_hold_no_path(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path
) -> None:
    (tmp_path / "my clip").mkdir()
    config = config_with("noted", backbone=str(tmp_path / "my clip"))
    run(config, pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    ((told, first),) = noted.opened
    key = json.loads((tmp_path / "run" / "run.json").read_text())["run_key"]
    assert first == 0
    assert told.id.startswith(f"{key}-")
    assert told.name == f"coop {key[:8]}"
    assert told.settings["run_key"] == key
    assert told.settings["backbone"] == "my clip"
    assert told.settings["recipe.epochs"] == 3
    assert told.settings["augmentation.views"] == 0
    assert told.settings["shots"] == "null"
    assert "options.context_tokens" in told.settings
    assert str(tmp_path) not in json.dumps(dict(told.settings))


def test_texts_that_are_no_places_are_told_as_they_are(backbone: Backbone) -> None:
    texts = {
        "of nobody": "~nobody-of-this-name/a",
        "long": "a/" + 300 * "b",
        "name": "openai/clip-vit-base-patch16",
        "nul": "a/\0",
    }
    told = tracking.settings_of({"words": texts, "place": "/usr/bin/env"}, backbone)
    assert told == {**{f"words.{name}": text for name, text in texts.items()}, "place": "env"} | {
        "backbone_fingerprint": backbone.fingerprint
    }


def test_the_sinks_are_no_part_of_what_a_run_is(
    noted: Noted, plain: Outcome, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [
        run_key.shared_run_key(config, Recipe(), "", backbone, pictures, pictures, ())
        for config in (config_with(), config_with("noted"))
    ]
    assert keys[0] == keys[1]
    assert same_model(plain, run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache()))


def stop_at(number: int, how: Callable[[], None]) -> Callable[[str, int, int, str], None]:
    def watch(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == number:
            how()

    return watch


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_and_resumed_run_is_told_once(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_SECONDS_BETWEEN_TELLINGS", 1e9)  # before checkpoints and at the end alone
    out = tmp_path / "run"
    with pytest.raises(InterruptedRun):
        run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, on_progress=stop_at(6, interrupt))
    assert noted.numbers == list(range(6))
    assert noted.closed == [False]
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, resume=True)
    assert noted.numbers == list(range(STEPS))
    assert noted.closed == [False, True]
    (first, then) = noted.opened
    assert first[0] == then[0]
    assert (first[1], then[1]) == (0, 6)
    # A finished run is shown again, and told to nobody.
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, resume=True)
    assert len(noted.opened) == 2


def test_steps_that_are_repeated_are_not_told_again(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("the power is gone")

    out = tmp_path / "run"
    # No checkpoint is written before the failure, so the run that goes on begins again.
    with pytest.raises(RuntimeError, match="the power is gone"):
        run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, on_progress=stop_at(6, fail))
    assert not (out / "checkpoint.safetensors").exists()
    assert noted.numbers == list(range(5))
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, resume=True)
    assert noted.numbers == list(range(STEPS))
    assert noted.opened[1][1] == 5


def test_a_run_that_fails_while_it_is_measured_is_closed_as_such(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("nothing can be measured")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "class_logits", fail)
        with pytest.raises(DataError, match="nothing can be measured"):
            run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    assert noted.closed == [False]
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run", resume=True)
    assert noted.numbers == list(range(STEPS))
    assert [number for _, number in noted.results] == [STEPS]


@pytest.mark.parametrize("method", ["zero-shot", "tip-adapter"])
def test_a_method_without_steps_tells_its_result(
    method: str, noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path
) -> None:
    config = RunConfig.model_validate(
        {"method": method, "log_to": "noted", "options": {"alpha": 1.0, "beta": 5.0} if method == "tip-adapter" else {}}
    )
    run(config, pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    assert noted.told == []
    assert [number for _, number in noted.results] == [0]
    assert noted.closed == [True]


class Failing(Noted):
    """A sink whose disk is full, or whose server is away, from some point on."""

    def __init__(self, at: str, after: int = 0) -> None:
        super().__init__()
        self._at, self._after = at, after

    def fail(self, place: str) -> None:
        if place == self._at:
            raise OSError(28, "No space left on device")

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        self.fail("open")
        super().open(run, folder, first)

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        if len(self.told) >= self._after:
            self.fail("steps")
        super().steps(steps)

    def result(self, values: Mapping[str, float], number: int) -> None:
        self.fail("result")
        super().result(values, number)

    def close(self, finished: bool) -> None:
        self.fail("close")
        super().close(finished)


@pytest.mark.parametrize(("at", "told"), [("open", 0), ("steps", 5), ("result", STEPS), ("close", STEPS)])
def test_a_sink_that_fails_is_dropped_with_one_warning_and_a_note(
    at: str,
    told: int,
    noted: Noted,
    plain: Outcome,
    backbone: Backbone,
    pictures: LabelledPictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing(at, after=5)
    monkeypatch.setitem(sinks.SINKS, "failing", lambda: failing)
    with caplog.at_level(logging.WARNING):
        outcome = run(config_with("failing", "noted"), pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    note = f"failing was told no more after {told} steps (OSError: [Errno 28] No space left on device)"
    assert [record.getMessage() for record in caplog.records] == [f"{note}; the training goes on"]
    assert note in outcome.result.notes
    assert note in json.loads((tmp_path / "run" / "result.json").read_text())["notes"]
    assert failing.numbers == list(range(told))
    assert noted.numbers == list(range(STEPS)) and noted.closed == [True]
    assert same_model(plain, outcome)


def test_a_failure_before_an_interruption_is_still_in_the_note(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sinks.SINKS, "failing", lambda: Failing("steps", after=2))
    out = tmp_path / "run"
    with pytest.raises(InterruptedRun):
        run(config_with("failing"), pictures, backbone=backbone, cache=FeatureCache(), out=out, on_progress=stop_at(6, interrupt))
    outcome = run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, resume=True)
    assert any("failing was told no more after 2 steps" in note for note in outcome.result.notes)


def test_overwriting_a_run_throws_away_what_was_tracked_of_it_and_no_folder_of_another(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out)
    (out / "tracking" / "more.txt").write_text("of a sink")
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache(), out=out, overwrite=True)
    assert not (out / "tracking" / "more.txt").exists()
    before, after = (told.id for told, _ in noted.opened)
    assert before != after
    assert noted.opened[1][1] == 0
    (out / "tracking" / "state.json").write_text("a file of mine")
    run(config_with(), pictures, backbone=backbone, cache=FeatureCache(), out=out, overwrite=True)
    assert (out / "tracking" / "state.json").read_text() == "a file of mine"


def test_only_the_first_rank_tells(
    noted: Noted, backbone: Backbone, pictures: LabelledPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "is_first", lambda: False)
    run(config_with("noted"), pictures, backbone=backbone, cache=FeatureCache())
    assert noted.opened == []


def test_the_estimator_tells_its_fit(
    noted: Noted, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    classifier = PromptClassifier("coop", recipe={"epochs": 1, "batch_size": 4}, augmentation={"views": 0}, log_to="noted")
    names = [CLASSES[label] for label in pictures.labels]
    classifier.fit(pictures.pictures, names).fit(pictures.pictures, names)
    assert noted.numbers == [*range(4), *range(4)]
    first, second = (told.id for told, _ in noted.opened)
    assert first != second
    assert {path.name for path in (tmp_path / "promptmix-tracking").iterdir()} == {first, second}
    with pytest.raises(ConfigError, match="did you mean 'noted'"):
        PromptClassifier("coop", log_to=["notes"]).fit(pictures.pictures, names)


class Watching(importlib.abc.MetaPathFinder):
    """Notes what is looked for, and finds nothing."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        self.seen.add(fullname.partition(".")[0])
        self.seen.add(fullname)


def test_without_being_asked_no_library_is_imported(
    backbone: Backbone, pictures: LabelledPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"tensorboard", "wandb", "mlflow", "torch.utils.tensorboard"}
    for name in list(sys.modules):
        if name in names or name.startswith(tuple(f"{one}." for one in names)):
            monkeypatch.delitem(sys.modules, name)
    watching = Watching()
    monkeypatch.setattr(sys, "meta_path", [watching, *sys.meta_path])
    assert importlib.util.find_spec("no_such_library") is None

    run(config_with(), pictures, backbone=backbone, cache=FeatureCache(), out=tmp_path / "run")
    assert "no_such_library" in watching.seen
    assert watching.seen & names == set()
    assert not (tmp_path / "run" / "tracking").exists()
