"""A run told to the sinks that were asked for, so that each step comes there once, and none of them can end the training."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from promptmix.backbones.base import Backbone
from promptmix.evaluation.metrics import Metrics
from promptmix.runtime import write_json, writing
from promptmix.training.loop import StepReport
from promptmix.training.sinks import LoggedStep, Setting, TrackedRun, load_sink

__all__ = ["FOLDER", "Tracker", "forget_tracking", "measures_of", "settings_of"]

FOLDER = "tracking"
_STATE = "state.json"
_FORMAT = "promptmix-tracking"
_SECONDS_BETWEEN_TELLINGS = 5.0
_logger = logging.getLogger(__name__)
Given = ParamSpec("Given")


class Tracker:
    """Tells a run to some sinks; to none where there are no names, at no cost.

    Steps are gathered, and told every few seconds and before every checkpoint. How many each sink has been told stands in the run's folder,
    so that a run that was killed goes on there with the first step that is missing, whatever is repeated here.

    A sink that fails is dropped with one warning, which is also one of :attr:`notes`.

    Args:
        names: of sinks.

    Raises:
        ConfigError: the library of one is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sinks = {name: load_sink(name) for name in names}
        self._told: dict[str, int] = {}
        self._pending: list[LoggedStep] = []
        self._next, self._last_telling = 0, time.monotonic()
        self._folder, self._key, self._id = Path(), "", ""
        self.notes: list[str] = []

    def open(self, out: Path | None, run_key: str, method: str, settings: Mapping[str, Setting]) -> None:
        """Begin to tell of a run, or go on with what its folder says was told before.

        Args:
            out: the run folder; None: what is written on this machine goes to ``promptmix-tracking/`` where the process runs.
            run_key: hash of all that the result depends on.
            method: by name, after which the run is called.
            settings: as :func:`settings_of` gives them.
        """
        if not self._sinks:
            return
        self._key, self._id = run_key, f"{run_key}-{uuid.uuid4().hex[:8]}"
        self._folder = Path("promptmix-tracking") / self._id if out is None else out / FOLDER
        before = _state_in(self._folder)
        if before is not None and before["run_key"] == run_key:
            self._id, self._told, self.notes = before["id"], dict(before["told"]), list(before["notes"])
        run = TrackedRun(id=self._id, name=f"{method} {run_key[:8]}", settings={"run_key": run_key, **settings})
        self._save()
        for name in list(self._sinks):
            first = self._told.setdefault(name, 0)
            self._ask(name, self._sinks[name].open, run, self._folder, first)
        self._last_telling = time.monotonic()

    def step(self, report: StepReport) -> None:
        """Take note of a step."""
        if not self._sinks:
            return
        self._next = report.done
        terms = {f"train/{name}": float(term) for name, term in report.terms.items()}
        values = {
            **terms,
            "train/loss": report.step_loss,
            "train/accuracy": report.accuracy,
            "train/rate": report.rate,
            "train/epoch": float(report.epoch),
            "train/seconds": report.seconds,
        }
        self._pending.append(LoggedStep(number=report.done - 1, time=time.time(), values=values))
        if time.monotonic() - self._last_telling >= _SECONDS_BETWEEN_TELLINGS:
            self.tell()

    def tell(self) -> None:
        """Tell the sinks all steps that they have not been told yet."""
        steps, self._pending = self._pending, []
        for name in list(self._sinks) if steps else ():
            new = [step for step in steps if step.number >= self._told[name]]
            if new and self._ask(name, self._sinks[name].steps, new):
                self._told[name] = new[-1].number + 1
        if steps:
            self._save()
        self._last_telling = time.monotonic()

    def result(self, values: Mapping[str, float]) -> None:
        """Tell what came of the run, as :func:`measures_of` gives it, and close."""
        self.tell()
        for name in list(self._sinks):
            # Of a method that takes no steps, and of a run that was stopped after its last one, nothing was told here.
            number = max(self._next, self._told[name])
            self._ask(name, self._sinks[name].result, values, number)
        self._close(finished=True)

    @contextlib.contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Where the block fails or is interrupted, what is known is told and the sinks are closed."""
        try:
            yield
        except BaseException:
            self.tell()
            self._close(finished=False)
            raise

    def _close(self, finished: bool) -> None:
        for name in list(self._sinks):
            self._ask(name, self._sinks[name].close, finished)
        self._sinks = {}

    def _ask(self, name: str, what: Callable[Given, None], *given: Given.args, **named: Given.kwargs) -> bool:
        """Whether a sink did it; one that did not is dropped."""
        try:
            what(*given, **named)
            return True
        except Exception as problem:  # of any library, on any server
            reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
            del self._sinks[name]
            self.notes.append(f"{name} was told no more after {self._told[name]} steps ({reason})")
            _logger.warning("%s; the training goes on", self.notes[-1])
            self._save()
            return False

    def _save(self) -> None:
        """Write down what was told. Where that cannot be, a run that goes on tells more than is needed."""
        state = {"format": _FORMAT, "run_key": self._key, "id": self._id, "told": self._told, "notes": self.notes}
        with contextlib.suppress(OSError, ValueError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / _STATE, state)


def forget_tracking(out: Path) -> None:
    """Remove what the run in a folder has written for sinks on this machine."""
    with writing(out):
        if _state_in(out / FOLDER) is not None:
            shutil.rmtree(out / FOLDER)


def settings_of(asked: Mapping[str, Any], backbone: Backbone) -> dict[str, Setting]:
    """What was asked for, under one name each, such as ``recipe.rate``, and the backbone's fingerprint; of a path only its last part."""
    return {**_flat(asked), "backbone_fingerprint": backbone.fingerprint}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    flat: dict[str, Setting] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            # As os has it, which says no of texts that no file system can hold, and of homes of nobody.
            is_place = os.sep in value and os.path.exists(os.path.expanduser(value))
            flat[f"{prefix}{name}"] = Path(value).name if is_place else value
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, int | float) else json.dumps(value)
    return flat


def measures_of(
    metrics: Metrics, zero_shot: Metrics, seconds: Mapping[str, float], num_trained_parameters: int
) -> dict[str, float]:
    """The numbers of a result, under one name each, such as ``result/accuracy``; without the tables by class."""
    parts = {
        "result": {**metrics.to_json(), "num_trained_parameters": num_trained_parameters},
        "zero_shot": zero_shot.to_json(),
        "seconds": seconds,
    }
    values = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def _state_in(folder: Path) -> dict[str, Any] | None:
    """What is written down of a run; None where nothing is, or the file is none of ours."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return {name: state[name] for name in ("run_key", "id", "told", "notes")} if state["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
