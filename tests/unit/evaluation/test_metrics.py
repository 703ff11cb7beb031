from __future__ import annotations

import math

import pytest
import torch

from promptmix.errors import DataError
from promptmix.evaluation.metrics import harmonic_mean, measure


@pytest.mark.parametrize("at_once", [7, 1024])
def test_against_plain_loops(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptmix.evaluation.metrics._MOST_PICTURES", at_once)
    generator = torch.Generator().manual_seed(3)
    logits, labels = 3 * torch.randn(200, 4, generator=generator), torch.randint(3, (200,), generator=generator)
    metrics = measure(logits, labels, ["a", "b", "c", "d"])
    right, nll, bins = [], 0.0, {}
    confusion = [[0] * 4 for _ in range(4)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        probabilities = [math.exp(value) / total for value in row]
        best = probabilities.index(max(probabilities))
        right.append(best == label)
        nll -= math.log(probabilities[label])
        confusion[label][best] += 1
        bins.setdefault(math.ceil(max(probabilities) * 15), []).append((max(probabilities), best == label))
    shares = {name: confusion[k][k] / sum(confusion[k]) for k, name in enumerate("abc")}
    gap = sum(abs(sum(p for p, _ in members) - sum(r for _, r in members)) for members in bins.values())
    assert metrics.accuracy == pytest.approx(sum(right) / 200)
    assert metrics.negative_log_likelihood == pytest.approx(nll / 200)
    assert metrics.confusion == [
        [row, column, confusion[row][column]] for row in range(4) for column in range(4) if confusion[row][column]
    ]
    assert metrics.per_class == {**{name: pytest.approx(share) for name, share in shares.items()}, "d": None}
    assert metrics.accuracy_per_class_mean == pytest.approx(sum(shares.values()) / 3)
    assert metrics.expected_calibration_error == pytest.approx(gap / 200)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="no picture"):
        measure(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), ["a", "b"])
    with pytest.raises(DataError, match="finite"):
        measure(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]), ["a", "b"])


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 1.0) == 0.0
