"""What a person asks of a calibration: thresholds for a stated precision or coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptmix.errors import ConfigError, did_you_mean
from promptmix.nn.calibration import Criterion

__all__ = ["Target", "Wanted"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a threshold is to reach, such as ``precision=0.95``."""

    kind: str
    share: float | None

    @staticmethod
    def parse(text: str, option: str, kinds: Sequence[str], alone: Sequence[str] = ()) -> Target:
        """Read ``kind=share``, or one of the words that stand ``alone``.

        Args:
            option: the option's name, for errors.

        Raises:
            ConfigError: it is not of this form, the kind is unknown, or the share is not between 0 and 1.
        """
        kind, equals, number = text.partition("=")
        if kind in alone and not equals:
            return Target(kind=kind, share=None)
        if kind not in kinds or not equals:
            raise ConfigError(f"{option} {text!r} is no target{did_you_mean(text, [*alone, *(f'{one}=0.9' for one in kinds)])}")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        _check_share(share, f"{option} {text}")
        return Target(kind=kind, share=share)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be fitted beside the temperature.

    Attributes:
        abstain: ``precision=P`` or ``coverage=C``; None: every picture is answered.
        label_sets: the share of label sets that are to hold the true class; None: no sets.
        multi_label: ``f1`` or ``precision=P``, for each class by itself.
        temperature: what it is chosen by; see :func:`~promptmix.evaluation.calibration.fit_temperature`.
    """

    abstain: Target | None = None
    label_sets: float | None = None
    multi_label: Target = Target(kind="f1", share=None)
    temperature: Criterion = "accuracy"

    @staticmethod
    def parse(
        abstain: str | None, label_sets: float | None, multi_label: str | None = None, temperature: str = "accuracy"
    ) -> Wanted:
        """Read what a person asks for.

        Raises:
            ConfigError: a target is not of its form, a share is not between 0 and 1, or there is no such criterion.
        """
        if temperature not in ("accuracy", "likelihood"):
            criteria = did_you_mean(temperature, ("accuracy", "likelihood"))
            raise ConfigError(f"--temperature {temperature!r} is nothing to choose it by{criteria}")
        if label_sets is not None:
            _check_share(label_sets, f"--label-sets {label_sets}")
        several = "f1" if multi_label is None else multi_label
        return Wanted(
            abstain=None if abstain is None else Target.parse(abstain, "--abstain", ("precision", "coverage")),
            label_sets=label_sets,
            multi_label=Target.parse(several, "--multi-label", ("precision",), alone=("f1",)),
            temperature="accuracy" if temperature == "accuracy" else "likelihood",
        )


def _check_share(share: float, what: str) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"{what} is no share between 0 and 1; write 0.95 for 95 %")
