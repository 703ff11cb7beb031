"""The rows of a report's ``results.csv``: every run and part at full precision."""

from __future__ import annotations

from collections.abc import Iterable

from promptmix.reporting.bench_runs import HARMONIC, ProtocolRuns

__all__ = ["LONG_HEADER", "long_rows"]

LONG_HEADER = (
    "protocol",
    "run_id",
    "dataset",
    "contender",
    "shots",
    "seed",
    "part",
    "accuracy",
    "zero_shot_accuracy",
    "below_zero_shot",
    "harmonic_mean",
    "accuracy_per_class_mean",
    "expected_calibration_error",
    "negative_log_likelihood",
    "num_pictures",
    "num_classes",
    "description",
    "refusal",
    "notes",
    "num_trained_parameters",
    "text_encodings_per_step",
    "seconds_features",
    "seconds_training",
    "seconds_evaluation",
    "seconds_all",
    "peak_memory_bytes",
    "split_hash",
    "backbone_name",
    "backbone_fingerprint",
)


def long_rows(sections: Iterable[ProtocolRuns]) -> list[tuple[object, ...]]:
    """One row a run and part below :data:`LONG_HEADER`, at full precision; ``harmonic_mean`` is that of the run's base and new."""
    rows = []
    for run in (run for runs in sections for run in runs.results):
        for part, metrics in run.measures.items():
            zero_shot = run.zero_shot.get(part, {})
            measured = metrics or {}
            values: dict[str, object] = {
                **run.model_dump(include=set(LONG_HEADER) - {"notes"}),
                **{name: measured[name] for name in LONG_HEADER if name in measured},
                **{f"seconds_{phase}": seconds for phase, seconds in run.seconds.items()},
                "part": part,
                "zero_shot_accuracy": zero_shot.get("accuracy"),
                "below_zero_shot": measured["accuracy"] < zero_shot["accuracy"] if measured and zero_shot else None,
                "harmonic_mean": HARMONIC.of(run.measures),
                "description": run.descriptions.get(part),
                "refusal": run.refusals.get(part),
                "notes": "; ".join(run.notes),
            }
            rows.append(tuple(values.get(name) for name in LONG_HEADER))
    return rows
