"""What a calibration makes of logits, against loops, and what is left of it for other classes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pydantic import ValidationError

from promptmix.nn.calibration import (
    AbstainRule,
    Calibration,
    LabelSetRule,
    MultiLabelRule,
    Reliability,
    judge,
    log_odds,
    presences,
    probabilities,
)

LOGITS = st_numpy.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-200, 200, width=32))
FAIR = Reliability(expected_calibration_error=0.1, negative_log_likelihood=1.0)


def calibration(temperature: float = 2.0, **rules: Any) -> Calibration:
    return Calibration(
        temperature=temperature,
        criterion="accuracy",
        fitted_on="made up",
        num_pictures=9,
        num_rule_pictures=9,
        cross_fitted=False,
        held_apart=False,
        before=FAIR,
        after=FAIR,
        **rules,
    )


def abstain(minimum: float) -> AbstainRule:
    return AbstainRule(target="coverage", wanted=0.9, confidence=None, minimum_probability=minimum, coverage=0.9, precision=None)


def several(*thresholds: float, shared: float = 0.5) -> MultiLabelRule:
    return MultiLabelRule(target="f1", wanted=None, slope=0.5, offset=-1.0, thresholds=thresholds, shared_threshold=shared)


RULES = {
    "abstain": abstain(0.6),
    "label_sets": LabelSetRule(coverage=0.9, minimum_probability=0.25, mean_size=1.5),
    "multi_label": several(0.3, 0.5, 0.7),
}


@given(LOGITS, st.floats(0.05, 20))
def test_what_is_said_is_what_loops_say(logits: np.ndarray, temperature: float) -> None:
    said = judge(logits, calibration(temperature, **RULES))
    assert said.label_sets is not None and said.presences is not None and said.present is not None
    for row, picture in enumerate(logits.tolist()):
        scaled = [value / temperature for value in picture]
        powers = [math.exp(value - max(scaled)) for value in scaled]
        shares = [power / sum(powers) for power in powers]
        assert said.probabilities[row] == pytest.approx(shares, abs=1e-12)
        own = said.probabilities[row].tolist()
        assert said.abstained[row] == (max(own) < 0.6)
        assert said.label_sets[row].tolist() == [share >= 0.25 or share == max(own) for share in own]
        gaps = [[other - value for place, other in enumerate(scaled) if place != own] for own, value in enumerate(scaled)]
        # The odds against a class are the sum of exp(other logit - its logit) over the others.
        against = [max(others) + math.log(sum(math.exp(one - max(others)) for one in others)) for others in gaps]
        each = [1 / (1 + math.exp(min(700.0, 0.5 * value + 1))) for value in against]
        assert said.presences[row] == pytest.approx(each, abs=1e-12)
        assert said.present[row].tolist() == (said.presences[row] >= np.array([0.3, 0.5, 0.7])).tolist()


@given(LOGITS)
def test_without_rules_only_the_temperature_counts(logits: np.ndarray) -> None:
    said = judge(logits, calibration(1.0))
    assert said.probabilities == pytest.approx(torch.from_numpy(logits).double().softmax(dim=1).numpy(), abs=1e-15)
    assert not said.abstained.any()
    assert (said.label_sets, said.presences, said.present) == (None, None, None)


def test_a_temperature_changes_no_ranking_and_a_picture_no_other() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(np.float32)
    for temperature in (0.02, 1.0, 50.0):
        shares = probabilities(logits, temperature)
        assert (shares.argmax(axis=1) == logits.argmax(axis=1)).all() or temperature < 0.1
        assert shares.sum(axis=1) == pytest.approx(np.ones(50))
        assert np.array_equal(probabilities(logits[3:4], temperature), shares[3:4])
    assert np.isfinite(presences(1e30 * logits, 0.01, 3.0, 2.0)).all()


@given(LOGITS)
def test_log_odds_are_those_of_the_probabilities(logits: np.ndarray) -> None:
    shares = probabilities(logits, 3.0)
    odds = log_odds(logits, 3.0)
    assert np.isfinite(odds).all()
    known = (shares > 1e-290) & (shares < 0.999999)
    assert odds[known] == pytest.approx(np.log(shares[known] / (1 - shares[known])), rel=1e-6, abs=1e-6)


def test_a_set_is_never_empty() -> None:
    logits = np.zeros((1, 3), np.float32)
    said = judge(logits, calibration(label_sets=LabelSetRule(coverage=0.5, minimum_probability=0.9, mean_size=1.0)))
    assert said.label_sets is not None
    assert said.label_sets.tolist() == [[True, True, True]]  # of equal ones all


def test_other_classes_keep_the_temperature_and_their_own_thresholds() -> None:
    changed = calibration(**RULES).with_classes([2, None, 0])
    assert (changed.abstain, changed.label_sets, changed.temperature) == (None, None, 2.0)
    assert changed.multi_label is not None
    assert changed.multi_label.thresholds == (0.7, 0.5, 0.3)
    assert not calibration(**RULES).classes_changed
    assert calibration().with_classes([0]) == calibration(classes_changed=True)


def test_it_is_read_as_it_was_written_and_strictly() -> None:
    whole = calibration(1 / 3, **RULES)
    assert Calibration.model_validate_json(whole.model_dump_json()) == whole
    for damage in (
        {"temperature": 0.0},
        {"temperature": 1e-300},
        {"temperature": 1e300},
        {"temperature": "2"},
        {"format": "promptmix-calibration-2"},
        {"more": 1},
    ):
        with pytest.raises(ValidationError):
            Calibration.model_validate({**whole.model_dump(), **damage})


def test_it_needs_no_torch() -> None:
    code = "import sys, promptmix.nn.calibration; assert not {'torch', 'scipy'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
