"""Results of runs as a bench writes them, made up from the accuracies that a test asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from promptmix.evaluation.metrics import measure
from promptmix.evaluation.results import BenchResult

FEW_SHOT, BASE_TO_NEW, CROSS_DATASET, COMPARE = "few-shot", "base-to-new", "cross-dataset", "compare"


def metrics(num_right: int, num_pictures: int = 10, num_classes: int = 2, prefix: str = "class") -> dict[str, Any]:
    """Metrics of ``num_right`` pictures told rightly out of ``num_pictures``, which are dealt over the classes in turn."""
    labels = torch.arange(num_pictures) % num_classes
    said = torch.where(torch.arange(num_pictures) < num_right, labels, (labels + 1) % num_classes)
    logits = torch.nn.functional.one_hot(said, num_classes).double() * 2
    return measure(logits, labels, [f"{prefix} {number}" for number in range(num_classes)]).to_json()


def run(
    contender: str,
    right: Mapping[str, int | None],
    *,
    protocol: str = FEW_SHOT,
    dataset: str = "pets",
    shots: int | None = 4,
    seed: int = 1,
    zero_right: Mapping[str, int] | int = 5,
    notes: Sequence[str] = (),
    num_pictures: int = 10,
    num_classes: int = 2,
    **changes: Any,
) -> BenchResult:
    """A run with so many pictures right for each part; None: the part was refused. Zero-shot learns nothing."""
    nothing = contender == "zero-shot"
    zero = {part: zero_right if isinstance(zero_right, int) else zero_right[part] for part in right}
    count = "" if nothing or shots is None else f"--{shots}-shot{'s' if shots > 1 else ''}"
    values: dict[str, Any] = {
        "protocol": protocol,
        "run_id": f"{dataset}--{contender.lower().replace(' ', '-')}{count}--seed-{seed}",
        "dataset": dataset,
        "contender": contender,
        "config": {"method": contender},
        "backbone_name": "small-clip",
        "backbone_fingerprint": "0123456789abcdef",
        "seed": seed,
        "shots": None if nothing else shots,
        "split_hash": None,
        "measures": {
            part: None if number is None else metrics(number, num_pictures, num_classes) for part, number in right.items()
        },
        "zero_shot": {part: metrics(number, num_pictures, num_classes) for part, number in zero.items()},
        "descriptions": dict.fromkeys(right, f"the test part of {dataset}"),
        "refusals": {part: f"{contender} knows no class of {part}" for part, number in right.items() if number is None},
        "num_trained_parameters": 0 if nothing else 2048,
        "text_encodings_per_step": 0 if nothing else 12,
        "seconds": {"features": 0.5, "training": 0.0 if nothing else 10.0 + seed, "evaluation": 0.25, "all": 12.0 + seed},
        "peak_memory_bytes": 300 << 20,
        "versions": {"promptmix": "0"},
        "notes": list(notes),
    }
    return BenchResult(**{**values, **changes})


def few_shot(contender: str, right: Mapping[int, int], **changes: Any) -> list[BenchResult]:
    """One run a seed, each with so many pictures right."""
    return [run(contender, {"test": number}, seed=seed, **changes) for seed, number in right.items()]


def base_to_new(
    contender: str, right: Mapping[int, tuple[int | None, int | None, int | None]], **changes: Any
) -> list[BenchResult]:
    """One run a seed, with pictures right of the base classes, of the new ones and of both together."""
    return [
        run(contender, dict(zip(("base", "new", "joint"), numbers, strict=True)), protocol=BASE_TO_NEW, seed=seed, **changes)
        for seed, numbers in right.items()
    ]
