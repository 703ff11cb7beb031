"""What a calibration is worth on labelled pictures that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from promptmix.config import StrictModel
from promptmix.evaluation.calibration import reliability_of
from promptmix.evaluation.metrics import Metrics, Share
from promptmix.nn.calibration import Calibration, judge

__all__ = ["MeasuredAnswers", "measure_answers"]


class MeasuredAnswers(StrictModel):
    """What was measured; shares are 0 to 1.

    Attributes:
        before, after: the metrics of the probabilities without the temperature and with it.
        answer_coverage: the share of pictures for which a class is named; ``answer_precision`` the share of these that are right, None
            where none is. Both None without a rule.
        set_coverage: the share of label sets that hold the true class; ``set_size`` classes in a set, the mean. None without a rule.
        label_recall: the share of pictures whose true class is among those said to be on them; ``label_precision`` the share of all
            classes said that are true, where there are any. None without a rule.
    """

    before: Metrics
    after: Metrics
    answer_coverage: Share | None = None
    answer_precision: Share | None = None
    set_coverage: Share | None = None
    set_size: float | None = None
    label_recall: Share | None = None
    label_precision: Share | None = None

    def shares(self) -> dict[str, float]:
        """All but the metrics, by name; what there is no rule for is left out."""
        return {name: value for name, value in self if isinstance(value, float)}


def measure_answers(
    logits: Float[np.ndarray, "image class"],
    labels: Int[np.ndarray, "image"],
    class_names: Sequence[str],
    calibration: Calibration,
) -> MeasuredAnswers:
    """Measure a calibration on pictures, each of one class.

    Raises:
        DataError: there is no picture, or a logit is not finite.
    """
    found: dict[str, Any] = {
        "before": reliability_of(logits, labels, class_names, 1.0),
        "after": reliability_of(logits, labels, class_names, calibration.temperature),
    }
    judged, every = judge(logits, calibration), np.arange(len(labels))
    if calibration.abstain is not None:
        answered = ~judged.abstained
        right = judged.probabilities.argmax(axis=1) == labels
        found["answer_coverage"] = float(answered.mean())
        found["answer_precision"] = float(right[answered].mean()) if answered.any() else None
    if judged.label_sets is not None:
        found["set_coverage"] = float(judged.label_sets[every, labels].mean())
        found["set_size"] = float(judged.label_sets.sum(axis=1).mean())
    if judged.present is not None:
        said = int(judged.present.sum())
        found["label_recall"] = float(judged.present[every, labels].mean())
        found["label_precision"] = float(judged.present[every, labels].sum() / said) if said else None
    return MeasuredAnswers(**found)
