"""Where a run can be told besides its own ``log.jsonl``: TensorBoard, Weights & Biases and MLflow, each imported only where it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from promptmix.errors import ConfigError, did_you_mean

__all__ = ["SINKS", "LoggedStep", "Setting", "Sink", "TrackedRun", "load_sink", "sink_names"]

Setting = str | int | float | bool

_SECONDS_TO_SEND_THE_REST = 300.0  # of a run of Weights & Biases; what is left then lies on disk
_METRICS_OF_A_CALL = 1000  # that MLflow's servers take at once; of parameters 100
_PARAMETERS_OF_A_CALL = 100
_LONGEST_PARAMETER = 500  # characters, which servers of any version take


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a sink is told of a run at its start. No path is in it.

    Attributes:
        id: the run's own, made when it first started: the run key and a few characters that tell it from a repetition.
        name: for people.
        settings: flat, such as ``recipe.rate``.
    """

    id: str
    name: str
    settings: Mapping[str, Setting]


@dataclass(frozen=True, kw_only=True)
class LoggedStep:
    """A step that was taken.

    Attributes:
        number: in the whole run, from 0.
        time: of the clock, in seconds since 1970.
        values: its loss, rate and so on, by name.
    """

    number: int
    time: float
    values: Mapping[str, float]


@runtime_checkable
class Sink(Protocol):
    """One place that is told of a run. Whatever a method raises ends the telling, never the run."""

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        """Begin, or go on with the run of the same id.

        Args:
            folder: the run's own, for what is written on this machine.
            first: number of the first step that is still to come; 0 for a new run.
        """

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        """Take down some steps, so that they outlive the process."""

    def result(self, values: Mapping[str, float], number: int) -> None:
        """Take down what the run came to, after so many steps."""

    def close(self, finished: bool) -> None:
        """The run is finished, or has stopped before."""


class TensorBoardSink:
    """Event files in the run folder, for ``tensorboard --logdir``."""

    def __init__(self) -> None:
        self._library = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = None

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        # Readers forget what an earlier process wrote of steps from ``purge_step`` on, for they come again.
        purge_step = first if first > 0 else None
        self._writer = self._library.SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)
        rows = [f"| {name} | {value} |" for name, value in {"run": run.id, **run.settings}.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), first)
        self._writer.flush()

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        for step in steps:
            for name, value in step.values.items():
                self._writer.add_scalar(name, value, step.number, walltime=step.time)
        self._writer.flush()

    def result(self, values: Mapping[str, float], number: int) -> None:
        self.steps([LoggedStep(number=number, time=time.time(), values=values)])

    def close(self, finished: bool) -> None:
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases, as its own environment variables say: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and others."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # what is wrong is told here, and to nobody else
        self._library = importlib.import_module("wandb")
        self._run: Any = None

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        # Neither what the terminal shows nor who runs what where.
        wanted: dict[str, Any] = {
            "console": "off",
            "silent": True,
            "disable_git": True,
            "save_code": False,
            "x_disable_meta": True,
        }
        wanted["x_transaction_log_flush_interval"] = (
            1.0  # what the library holds back so long is lost where the process is killed
        )
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            wanted["finish_timeout"] = _SECONDS_TO_SEND_THE_REST
        known = self._library.Settings.model_fields
        self._run = self._library.init(
            id=run.id,
            name=os.environ.get("WANDB_NAME", run.name),
            project=os.environ.get("WANDB_PROJECT", "promptmix"),
            dir=None if "WANDB_DIR" in os.environ else str(folder),
            config=dict(run.settings),
            # Without a server there is nothing to go on with: the library writes another folder of the same id.
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            reinit="create_new",  # a run that the person has under way is left alone
            settings=self._library.Settings(**{name: value for name, value in wanted.items() if name in known}),
        )

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        for step in steps:
            self._run.log({**step.values, "_timestamp": step.time}, step=step.number, commit=True)

    def result(self, values: Mapping[str, float], number: int) -> None:
        self._run.summary.update(dict(values))

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowSink:
    """A run of MLflow: on the server or in the store that MLFLOW_TRACKING_URI names, else in the run folder."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that is away must not hold up the training for the minutes that are usual.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._library = importlib.import_module("mlflow")
        logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it tells of every table that it makes
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun, folder: Path, first: int) -> None:
        own_place = "MLFLOW_TRACKING_URI" not in os.environ
        self._client = self._library.MlflowClient(_own_store(folder) if own_place else None)
        experiment = self._experiment(str((folder / "mlflow-artifacts").absolute().as_uri()) if own_place else None)
        known = self._client.search_runs([experiment], f"tags.`promptmix.run` = '{run.id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, run_name=run.name, tags={"promptmix.run": run.id}).info.run_id
        parameters = [self._library.entities.Param(name, str(value)[:_LONGEST_PARAMETER]) for name, value in run.settings.items()]
        for start in range(0, len(parameters), _PARAMETERS_OF_A_CALL):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS_OF_A_CALL])

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "promptmix")
        there = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name, artifacts) if there is None else there.experiment_id)

    def steps(self, steps: Sequence[LoggedStep]) -> None:
        metrics = [
            self._library.entities.Metric(name, value, int(1000 * step.time), step.number)
            for step in steps
            for name, value in step.values.items()
        ]
        for start in range(0, len(metrics), _METRICS_OF_A_CALL):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS_OF_A_CALL])

    def result(self, values: Mapping[str, float], number: int) -> None:
        # Those of a run that was stopped while it was saved are there already.
        there = self._client.get_run(self._id).data.metrics
        new = {name: value for name, value in values.items() if name not in there}
        self.steps([LoggedStep(number=number, time=time.time(), values=new)])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _own_store(folder: Path) -> str:
    """Address of a store in the folder: a database, or plain files where mlflow-skinny is installed without the libraries for one."""
    if importlib.util.find_spec("sqlalchemy") is not None and importlib.util.find_spec("alembic") is not None:
        return f"sqlite:///{(folder / 'mlflow.db').absolute()}"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # later versions want a database, and else refuse
    return (folder / "mlflow").absolute().as_uri()


SINKS: dict[str, Callable[[], Sink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink, "mlflow": MlflowSink}


def sink_names(names: object) -> tuple[str, ...]:
    """The names of sinks in a list or in a text with commas, each once, in their order.

    Raises:
        ValueError: there is no such sink, or these are no names.
    """
    if not isinstance(names, str | list | tuple):
        raise ValueError(f"it must be names with commas between them; allowed: {', '.join(SINKS)}")
    texts = [names] if isinstance(names, str) else names
    chosen = [name.strip() for text in texts for name in str(text).split(",") if name.strip()]
    for name in chosen:
        if name not in SINKS:
            raise ValueError(f"there is no such place to log to: {name!r}{did_you_mean(name, SINKS)}")
    return tuple(dict.fromkeys(chosen))


def load_sink(name: str) -> Sink:
    """The sink of this name, with its library imported and nothing opened yet.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        return SINKS[name]()
    except ImportError as problem:
        raise ConfigError(f"--log-to {name} needs a package that is missing; pip install 'promptmix[track]'") from problem
