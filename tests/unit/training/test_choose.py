"""Options chosen on held-out shots: the split, the choice, and a whole run that makes one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import ConfigError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.methods.registry import build_method
from promptmix.training.choose import choose_options
from promptmix.training.fit import RunConfig
from promptmix.training.run import Outcome, run

NAMES = ("anchor", "cat", "skull")
CANDIDATES = ({"regroup": 1}, {"regroup": 2}, {"regroup": 4})


def test_a_quarter_of_each_class_is_held_out_and_the_best_is_taken() -> None:
    labels = [0] * 8 + [1] * 5 + [2] * 2
    seen: list[tuple[list[int], list[int]]] = []

    def fit(candidate: Mapping[str, Any], learnt_from: list[int], held_out: list[int]) -> float:
        seen.append((learnt_from, held_out))
        return {1: 0.5, 2: 0.75, 4: 0.75}[candidate["regroup"]]

    choice = choose_options(CANDIDATES, labels, NAMES, 3, fit)
    assert choice.options == {"regroup": 2}  # as good as 4, and simpler
    assert choice.num_held_out == 4
    for learnt_from, held_out in seen:
        assert sorted(learnt_from + held_out) == list(range(15))
        assert [sum(labels[place] == label for place in held_out) for label in range(3)] == [2, 1, 1]
    assert seen[0] == seen[1] == seen[2]
    assert choice.note() == (
        "chose regroup=2 on 4 held-out training pictures (regroup=1 50.0 %, regroup=2 75.0 %, regroup=4 75.0 %)"
    )
    again = [choose_options(CANDIDATES, labels, NAMES, seed, fit) and seen[-1][1] for seed in (3, 4, 5, 6)]
    assert again[0] == seen[0][1]
    assert any(other != again[0] for other in again[1:])


def test_a_class_with_one_picture_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match="'cat' has 1 training picture"):
        choose_options(CANDIDATES, [0, 0, 1, 2, 2], NAMES, 1, lambda *given: 0.0)


GROUPS = [["a {}."], ["many {}."], ["the {}."]]
SEARCH = RunConfig.model_validate({"options": {"regroup": "held_out", "groups": GROUPS}, "recipe": {"epochs": 1}})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


def drawn(per_class: int, seed: int) -> LabelledPictures:
    pictures = draw_set(NAMES, ("stamp",), per_class, seed)
    labels = [NAMES.index(one.class_name) for one in pictures]
    return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=NAMES, description="drawn")


def chosen_by(outcome: Outcome) -> int:
    note = next(note for note in outcome.result.notes if note.startswith("chose regroup="))
    return int(note.removeprefix("chose regroup=").split(" ")[0])


def test_a_run_chooses_its_number_of_experts_and_says_so(backbone: Backbone, cache: FeatureCache) -> None:
    stages: list[str] = []
    outcome = run(
        SEARCH,
        drawn(4, 1),
        drawn(2, 2),
        backbone=backbone,
        cache=cache,
        on_progress=lambda stage, *progress: stages.append(stage),
    )
    note = next(note for note in outcome.result.notes if note.startswith("chose regroup="))
    assert len(outcome.model.expert_names) == chosen_by(outcome)
    assert "on 3 held-out training pictures (regroup=1 " in note
    assert "regroup=4" not in note  # there are three templates
    assert note in outcome.model.training["notes"]
    assert outcome.result.config["options"]["regroup"] == "held_out"
    assert outcome.result.config["options"]["groups"] == GROUPS
    assert outcome.model.options["regroup"] is None
    assert outcome.result.seconds["choosing"] > 0
    assert stages.count("choosing options: training") == 2 * stages.count("training") > 0

    alone = SEARCH.model_copy(update={"options": {**SEARCH.options, "regroup": chosen_by(outcome)}})
    direct = run(alone, drawn(4, 1), drawn(2, 2), backbone=backbone, cache=cache)
    for name, value in direct.model.learnt.items():
        assert torch.equal(value, outcome.model.learnt[name]), name
    assert "choosing" not in direct.result.seconds


def test_the_test_pictures_have_no_say(backbone: Backbone, cache: FeatureCache) -> None:
    notes = []
    for seed in (2, 3):
        outcome = run(SEARCH, drawn(4, 1), drawn(2, seed), backbone=backbone, cache=cache)
        notes.append(next(note for note in outcome.result.notes if note.startswith("chose ")))
    turned = drawn(2, 2)
    wrong = LabelledPictures(
        pictures=turned.pictures, labels=[2 - label for label in turned.labels], class_names=NAMES, description="drawn"
    )
    outcome = run(SEARCH, drawn(4, 1), wrong, backbone=backbone, cache=cache)
    notes.append(next(note for note in outcome.result.notes if note.startswith("chose ")))
    assert len(set(notes)) == 1


def test_what_is_chosen_is_what_did_best(backbone: Backbone, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in (1, 2):
        given = {"regroup": wanted}
        monkeypatch.setattr(
            "promptmix.training.fit.choose_options",
            lambda candidates, labels, class_names, seed, fit, given=given: choose_options(
                candidates, labels, class_names, seed, lambda candidate, *places: float(candidate == given)
            ),
        )
        outcome = run(SEARCH, drawn(2, 1), backbone=backbone, cache=cache)
        assert len(outcome.model.expert_names) == chosen_by(outcome) == wanted


def test_a_stopped_search_leaves_nothing_and_a_stopped_run_chooses_again(
    backbone: Backbone, cache: FeatureCache, tmp_path: Path
) -> None:
    whole = run(SEARCH, drawn(4, 1), backbone=backbone, cache=cache, out=tmp_path / "whole")
    epochs = SEARCH.model_copy(update={"recipe": {"epochs": 3, "batch_size": 8}})

    def stop_in(wanted: str) -> Callable[[str, int, int, str], None]:
        def watch(stage: str, done: int, total: int, detail: str) -> None:
            if stage == wanted and done == 1:
                os.kill(os.getpid(), signal.SIGINT)

        return watch

    for stage in ("choosing options: training", "training"):
        with pytest.raises(InterruptedRun):
            run(epochs, drawn(4, 1), backbone=backbone, cache=cache, out=tmp_path / "cut", on_progress=stop_in(stage))
        assert (tmp_path / "cut" / "checkpoint.safetensors").is_file() == (stage == "training")
    resumed = run(epochs, drawn(4, 1), backbone=backbone, cache=cache, out=tmp_path / "cut", resume=True)
    plain = run(epochs, drawn(4, 1), backbone=backbone, cache=cache)
    assert resumed.result.notes == plain.result.notes
    for name, value in plain.model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name

    def nothing(stage: str, done: int, total: int, detail: str) -> None:
        raise AssertionError(f"a finished run began {stage}")

    again = run(SEARCH, drawn(4, 1), backbone=backbone, out=tmp_path / "whole", resume=True, on_progress=nothing)
    assert again.result == whole.result


def test_one_picture_of_a_class_stops_before_anything_is_written(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'anchor' has 1 training picture"):
        run(SEARCH, drawn(1, 1), backbone=backbone, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_method_alone_has_no_shots_to_hold_out(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="give a number"):
        build_method("mocoop", {"regroup": "held_out"}, backbone, NAMES)
