"""Numbers of several seeds as one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "spread"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of ``count`` values; one value has no deviation."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of one number a seed.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if len(values) == 0:
        raise ValueError("no value: a mean needs one finite value or more")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{list(values)}: a mean needs finite values only")
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, count=len(values))
