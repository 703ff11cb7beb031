"""What compare recommends, and when it says that the seeds cannot tell."""

from __future__ import annotations

from typing import Any

import pytest

from promptmix.evaluation.results import BenchResult
from promptmix.protocols.compare import recommend


def result(
    contender: str,
    seed: int,
    accuracy: float | None,
    shots: int | None = 4,
    seconds: float = 1.0,
    data: str = "photos",
    zero_shot: float | None = None,
    pictures: str = "the test part of photos",
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
        zero_shot={} if zero_shot is None else {"test": {"accuracy": zero_shot}},
        descriptions={"test": pictures},
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
    (one,) = recommend(results({"coop": [0.50, 0.60, 0.55], "mocoop": [0.71, 0.79, 0.75], "zero-shot": [0.4, 0.4, 0.4]}))
    assert (one.contender, one.runner_up) == ("mocoop", "coop")
    assert not one.within_noise
    # t of 2 degrees of freedom is 4.3027; the differences are 0.21, 0.19 and 0.20: 4.3027 * 0.01 / sqrt(3) is 0.0248. The
    # accuracies have a deviation of 0.04.
    assert one.text() == (
        "photos, 4 shots: take mocoop, 75.0 % (95 % interval 65.1 to 84.9), trained in 1.0 s; 20.0 points (95 % interval 17.5 to 22.5"
        " over 3 seeds) above coop: more than noise. It is 35.0 points (95 % interval 25.1 to 44.9 over 3 seeds) above zero-shot."
        " Intervals cover which shots 3 seeds draw, not which test pictures there are. Accuracy and lead are those of the best of 3"
        " contenders, which flatters it a little"
    )


def test_a_lead_that_the_seeds_do_not_bear_out_is_within_noise() -> None:
    (one,) = recommend(results({"coop": [0.50, 0.62, 0.55], "mocoop": [0.60, 0.58, 0.60]}))
    assert one.contender == "mocoop"
    assert one.within_noise
    assert "within noise, so coop (trained in 1.0 s) may be as good" in one.text()


def test_a_lead_that_is_the_same_for_all_seeds_says_nothing_of_the_noise() -> None:
    """Three equal differences have no interval, whatever they are: they do not say how another would be."""
    (one,) = recommend(results({"coop": [0.50, 0.60, 0.55], "mocoop": [0.70, 0.80, 0.75]}))
    assert one.lead.difference is not None
    assert one.lead.difference.interval is None
    assert one.within_noise
    assert "20.0 points (the same for all 3 seeds) above coop: within noise" in one.text()


def test_contenders_are_ranked_on_the_seeds_that_all_of_them_have() -> None:
    """A contender without the seed that is hard for all has the best mean and is behind in every pair."""
    several = results({"coop": [0.9, 0.8, 0.4], "zero-shot": [0.5, 0.5, 0.2]}) + results({"mocoop": [0.88, 0.79]})
    (one,) = recommend(several)
    assert (one.contender, one.runner_up, one.num_ranked, one.not_ranked) == ("coop", "zero-shot", 2, {"mocoop": (3,)})
    assert one.accuracy.count == 3
    assert one.text().endswith(". Not ranked: mocoop (no result for seed 3)")
    assert recommend(several[::-1])[0].contender == "coop"
    # Where no contender has all seeds, those with which the most results can be ranked.
    few = [result("a", 1, 0.9), result("a", 2, 0.1), result("b", 1, 0.2), result("b", 2, 0.9), result("c", 2, 1.0)]
    (found,) = recommend([*few, result("c", 3, 1.0)])
    assert (found.contender, found.runner_up, found.not_ranked, found.not_counted) == ("b", "a", {"c": (1,)}, (3,))


def test_a_seed_that_most_contenders_lack_does_not_count() -> None:
    """A picture that cannot be read may be among the shots of one seed: then nothing that learns has a result for it."""
    several = results({"coop": [0.6, 0.7], "mocoop": [0.7, 0.9], "kgcoop": [0.5, 0.6], "zero-shot": [0.5, 0.5, 0.5]})
    (one,) = recommend(several)
    assert (one.contender, one.runner_up, one.num_ranked) == ("mocoop", "coop", 4)
    assert (one.not_ranked, one.not_counted) == ({}, (3,))
    assert one.text().endswith(". Not counted: seed 3, for which too few contenders have a result")


@pytest.mark.parametrize("own_run", [True, False])
def test_where_nothing_beats_zero_shot_that_is_said_and_recommended(own_run: bool) -> None:
    """Also where it is no contender: every run measures it beside its own."""
    runs = [result("coop", seed, value, zero_shot=0.5) for seed, value in ((1, 0.4), (2, 0.5), (3, 0.45))]
    runs += [result("mocoop", seed, 0.3, zero_shot=0.5) for seed in (1, 2, 3)]
    runs += [result("zero-shot", seed, 0.5, None, zero_shot=0.5) for seed in (1, 2, 3) if own_run]
    (one,) = recommend(runs)
    assert (one.contender, one.runner_up, one.num_ranked, one.over_zero_shot) == ("zero-shot", "coop", 3, None)
    assert one.text().startswith(
        "photos, 4 shots: take zero-shot, 50.0 %, no training; nothing beats it; 5.0 points (95 % interval -7.4 to 17.4 over 3 seeds)"
        " above coop: within noise, so coop (trained in 1.0 s) may be as good."
    )


def test_of_equal_ones_zero_shot_goes_first() -> None:
    (one,) = recommend(results({"coop": [0.5, 0.6, 0.7], "zero-shot": [0.7, 0.5, 0.6]}, seconds=0.0))
    assert one.contender == "zero-shot"


def test_a_gain_on_zero_shot_that_may_be_noise_is_said_to() -> None:
    (one,) = recommend(results({"mocoop": [0.5, 0.6, 0.7], "coop": [0.5, 0.6, 0.6], "zero-shot": [0.5, 0.5, 0.5]}))
    assert one.contender == "mocoop"
    assert "above zero-shot: within noise, so it may be no better than no training. " in one.text()


def test_where_every_seed_has_its_own_test_pictures_the_intervals_cover_them() -> None:
    runs = [result("coop", seed, 0.5 + seed / 10, pictures=f"held out by seed {seed}") for seed in (1, 2, 3)]
    assert "Intervals cover which pictures 3 seeds draw as shots and hold out, no new pictures" in recommend(runs)[0].text()


def test_of_equal_ones_the_quickest() -> None:
    slow = results({"a": [0.5, 0.6]}, seconds=9.0)
    (one,) = recommend([*slow, *results({"b": [0.6, 0.5]}, seconds=2.0)])
    assert (one.contender, one.runner_up) == ("b", "a")
    assert one.within_noise


def test_one_seed_says_nothing_of_the_noise() -> None:
    (one,) = recommend(results({"a": [0.9], "b": [0.1]}))
    assert one.within_noise
    assert "One seed says nothing of the noise: give more with --seeds" in one.text()
    (alone,) = recommend(results({"a": [0.9, 0.8]}))
    assert "there is nothing to compare it with" in alone.text()
    assert "the best of" not in alone.text()


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


def test_what_was_not_measured_cannot_be_recommended() -> None:
    assert [one.contender for one in recommend([result("a", 1, None), result("b", 1, 0.1)])] == ["b"]
    assert recommend([result("a", 1, None)]) == []
