"""What compare recommends, and when it says that the seeds cannot tell."""

from __future__ import annotations

from typing import Any

import pytest

from promptmix.evaluation.results import BenchResult
from promptmix.protocols.compare import recommend


def result(
    contender: str, seed: int, accuracy: float | None, shots: int | None = 4, seconds: float = 1.0, data: str = "photos"
) -> BenchResult:
    measured: dict[str, Any] | None = None if accuracy is None else {"accuracy": accuracy}
    return BenchResult(
        protocol="compare",
        run_id=f"{data}--{contender}--{shots}--{seed}",
        dataset=data,
        contender=contender,
        config={},
        backbone_name="bundled",
        backbone_fingerprint="0",
        seed=seed,
        shots=shots,
        split_hash=None,
        measures={"test": measured},
        zero_shot={},
        descriptions={},
        refusals={},
        num_trained_parameters=0,
        text_encodings_per_step=0,
        seconds={"training": seconds, "all": 100.0},
        peak_memory_bytes=0,
        versions={},
        notes=[],
    )


def results(accuracies: dict[str, list[float]], **options: Any) -> list[BenchResult]:
    return [result(name, seed, value, **options) for name, values in accuracies.items() for seed, value in enumerate(values, 1)]


def test_the_best_mean_is_recommended_with_its_interval() -> None:
    (one,) = recommend(results({"coop": [0.50, 0.60, 0.55], "mocoop": [0.70, 0.80, 0.75], "zero-shot": [0.4, 0.4, 0.4]}))
    assert (one.contender, one.runner_up) == ("mocoop", "coop")
    assert not one.within_noise
    # t of 2 degrees of freedom is 4.3027; the differences are all 0.2, the accuracies have a deviation of 0.05.
    assert one.text() == (
        "photos, 4 shots: take mocoop, 75.0 % (95 % interval 62.6 to 87.4), trained in 1.0 s; 20.0 points above coop (95 % interval"
        " 20.0 to 20.0 over 3 seeds): more than noise"
    )


def test_a_lead_that_the_seeds_do_not_bear_out_is_within_noise() -> None:
    (one,) = recommend(results({"coop": [0.50, 0.62, 0.55], "mocoop": [0.60, 0.58, 0.60]}))
    assert one.contender == "mocoop"
    assert one.within_noise
    assert one.text().endswith("within noise, so coop (trained in 1.0 s) may be as good")


def test_of_equal_ones_the_quickest() -> None:
    slow = results({"a": [0.5, 0.6]}, seconds=9.0)
    (one,) = recommend([*slow, *results({"b": [0.6, 0.5]}, seconds=2.0)])
    assert (one.contender, one.runner_up) == ("b", "a")
    assert one.within_noise


def test_one_seed_says_nothing_of_the_noise() -> None:
    (one,) = recommend(results({"a": [0.9], "b": [0.1]}))
    assert one.within_noise
    assert "one seed says nothing of the noise" in one.text()
    (alone,) = recommend(results({"a": [0.9, 0.8]}))
    assert alone.text().endswith("there is nothing to compare it with")


def test_each_data_set_and_number_of_shots_has_its_own_and_who_learns_nothing_competes_everywhere() -> None:
    several = [
        *results({"coop": [0.5, 0.5]}, shots=1),
        *results({"coop": [0.9, 0.9]}, shots=16),
        *results({"zero-shot": [0.7, 0.7]}, shots=None),
        *results({"coop": [0.2, 0.2]}, data="other"),
    ]
    found = recommend(several)
    assert [(one.dataset, one.shots, one.contender) for one in found] == [
        ("photos", 1, "zero-shot"),
        ("photos", 16, "coop"),
        ("other", 4, "coop"),
    ]


def test_only_pairs_of_the_same_seed_are_compared() -> None:
    (one,) = recommend([*results({"a": [0.9, 0.7, 0.8]}), result("b", 3, 0.6), result("b", 9, 0.0)])
    assert one.lead.difference is not None
    assert (one.lead.difference.mean, one.lead.difference.count) == (pytest.approx(0.2), 1)


def test_what_was_not_measured_cannot_be_recommended() -> None:
    assert [one.contender for one in recommend([result("a", 1, None), result("b", 1, 0.1)])] == ["b"]
    assert recommend([result("a", 1, None)]) == []
