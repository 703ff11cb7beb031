"""Options chosen on held-out shots: the split, the choice, and a whole run that makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.errors import ConfigError
from promptmix.features.cache import FeatureCache
from promptmix.methods.registry import build_method
from promptmix.training.choose import choose_options
from promptmix.training.run import LabelledPictures, RunConfig, run

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


def test_a_run_chooses_its_number_of_experts_and_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    def drawn(per_class: int, seed: int) -> LabelledPictures:
        pictures = draw_set(NAMES, ("stamp",), per_class, seed)
        labels = [NAMES.index(one.class_name) for one in pictures]
        return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=NAMES, description="drawn")

    wanted = {"options": {"regroup": "held_out", "groups": [["a {}."], ["many {}."], ["the {}."]]}, "recipe": {"epochs": 1}}
    cache = FeatureCache(tmp_path_factory.mktemp("features"))
    outcome = run(
        RunConfig.model_validate(wanted), drawn(4, 1), drawn(2, 2), backbone=load_backbone("bundled", device="cpu"), cache=cache
    )
    note = next(note for note in outcome.result.notes if note.startswith("chose regroup="))
    chosen = int(note.removeprefix("chose regroup=").split(" ")[0])
    assert len(outcome.model.expert_names) == chosen
    assert "on 3 held-out training pictures (regroup=1 " in note
    assert "regroup=4" not in note  # there are three templates


def test_a_method_alone_has_no_shots_to_hold_out() -> None:
    with pytest.raises(ConfigError, match="give a number"):
        build_method("mocoop", {"regroup": "held_out"}, load_backbone("bundled", device="cpu"), NAMES)
