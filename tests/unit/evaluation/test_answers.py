"""What a calibration is worth on labelled pictures, against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from promptmix.errors import DataError
from promptmix.evaluation.answers import measure_answers
from promptmix.nn.calibration import AbstainRule, Calibration, LabelSetRule, MultiLabelRule, Reliability

FAIR = Reliability(expected_calibration_error=0.1, negative_log_likelihood=1.0)
# Probabilities at temperature 2, so that what counts is the calibrated ones.
SHARES = np.array([[0.7, 0.2, 0.1], [0.5, 0.45, 0.05], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]])
LABELS = np.array([0, 1, 2, 0])


def calibration(minimum: float = 0.45) -> Calibration:
    return Calibration(
        temperature=2.0,
        criterion="accuracy",
        fitted_on="",
        num_pictures=4,
        num_rule_pictures=4,
        cross_fitted=False,
        held_apart=False,
        before=FAIR,
        after=FAIR,
        abstain=AbstainRule(
            target="coverage", wanted=0.5, confidence=None, minimum_probability=minimum, coverage=0.5, precision=0.5
        ),
        label_sets=LabelSetRule(coverage=0.5, minimum_probability=0.3, mean_size=1.0),
        # With a slope of 1 and no offset it is the calibrated probability itself.
        multi_label=MultiLabelRule(target="f1", wanted=None, slope=1.0, offset=0.0, thresholds=(0.3,) * 3, shared_threshold=0.5),
    )


def test_shares_are_those_counted_by_hand() -> None:
    measured = measure_answers(2 * np.log(SHARES), LABELS, ("a", "b", "c"), calibration())
    assert measured.after.accuracy == measured.before.accuracy == 0.25
    assert measured.after.negative_log_likelihood == pytest.approx(-np.log([0.7, 0.45, 0.25, 0.1]).mean())
    assert measured.before.negative_log_likelihood != measured.after.negative_log_likelihood
    assert (measured.answer_coverage, measured.answer_precision) == (0.75, pytest.approx(1 / 3))
    assert (measured.set_coverage, measured.set_size) == (0.5, 1.5)
    assert (measured.label_recall, measured.label_precision) == (0.5, pytest.approx(2 / 6))
    assert measured.shares() == {name: value for name, value in measured.model_dump().items() if name not in ("before", "after")}


def test_where_nothing_is_answered_nothing_is_right() -> None:
    measured = measure_answers(2 * np.log(SHARES), LABELS, ("a", "b", "c"), calibration(1.0))
    assert measured.answer_coverage == 0
    assert "answer_precision" not in measured.shares()


def test_without_rules_and_without_pictures() -> None:
    plain = calibration().model_copy(update={"abstain": None, "label_sets": None, "multi_label": None})
    assert measure_answers(2 * np.log(SHARES), LABELS, ("a", "b", "c"), plain).shares() == {}
    with pytest.raises(DataError, match="no picture to measure on"):
        measure_answers(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), ("a", "b", "c"), plain)
