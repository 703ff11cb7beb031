"""The training loop, flat and whole."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from promptmix.distributed.group import any_rank, is_first, num_ranks, wait_for_all
from promptmix.distributed.rows import share_gradients
from promptmix.errors import CheckpointError, ConfigError, InterruptedRun, LostRankError, OutOfMemoryError
from promptmix.evaluation.results import peak_memory_bytes
from promptmix.memory import is_out_of_memory
from promptmix.methods.base import Method, Recipe
from promptmix.prompts.chunks import ChunkLimits, limit_chunks
from promptmix.prompts.encoder import usual_rows
from promptmix.runtime import hand_back_freed_memory, keep_freed_memory, write_text, writing
from promptmix.structs import Batch, StepOutput
from promptmix.training.checkpoint import Checkpoint, shared_checkpoint, write_checkpoint
from promptmix.training.feeds import Feed, num_steps
from promptmix.training.optim import averaging_weight, build_optimizer, rate_at, set_rates

__all__ = ["StepReport", "Taken", "train"]

_SECONDS_BETWEEN_CHECKPOINTS = 20.0
_logger = logging.getLogger(__name__)
_OPTIMIZER_STATE = ("momentum_buffer", "step", "exp_avg", "exp_avg_sq")  # of SGD; of AdamW


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What the person watching is told after each step.

    Attributes:
        epoch, step: the epoch at hand, and the step in it, both from 0.
        done, steps: how many steps of the whole run are done, and how many it has.
        loss, accuracy: over the epoch so far.
        step_loss, terms: of the step itself; the terms add up to the loss.
        rate: of parameters without a multiplier, in this step.
        seconds: of training so far, over all its legs.
    """

    epoch: int
    step: int
    done: int
    steps: int
    loss: float
    accuracy: float
    step_loss: float
    terms: Mapping[str, Tensor]
    rate: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a training took, over all the legs of one that was interrupted.

    Attributes:
        steps: 0 where nothing was learnt step by step.
        seconds: of training; ``earlier_seconds``: those of them that were spent before the last interruption.
        peak_memory_bytes: the most that one of its processes has held.
    """

    steps: int
    seconds: float
    earlier_seconds: float
    peak_memory_bytes: int


def train(
    method: Method,
    recipe: Recipe,
    feed: Feed,
    *,
    run_key: str = "",
    log_path: Path | None = None,
    checkpoint_path: Path | None = None,
    limits: ChunkLimits | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    before_save: Callable[[], None] | None = None,
) -> Taken:
    """Train ``method`` in place; returns what it took in all.

    With a ``checkpoint_path`` the state is written every now and then, and a file that is already there is resumed from: on a CPU the
    parameters at the end are bit for bit those of an uninterrupted run on the same machine (a GPU adds up in no fixed order). On
    Ctrl-C or SIGTERM the step at hand is finished and the state written. Where memory runs out, fewer prompts are encoded at a time
    from then on, once.

    Args:
        limits: how much text is encoded at a time; None: as is usual.
        before_save: called when a checkpoint is about to be written, after the report of every step that it holds.

    Where several ranks work together all call this alike, and all end with the same parameters; the first one writes. Each encodes its
    share of the texts and, from a :class:`~promptmix.training.feeds.LiveFeed`, of the pictures; what follows, all do alike.

    Raises:
        OutOfMemoryError: memory ran out again.
        InterruptedRun: the person stopped the run; the checkpoint was written.
        LostRankError: another rank is gone; the checkpoint was written, unless that was the first.
        CheckpointError: the checkpoint is damaged, or of another run or feed.
        ConfigError: the loss or a parameter is no longer a finite number, or the method tunes the image tower and the feed holds cached features.
    """
    if method.tunes_image_tower and not feed.is_live:
        raise ConfigError(
            f"method {method.name} tunes the image tower here, so cached features would be of a tower that is no more; give it a"
            " LiveFeed of the pictures"
        )
    begun = time.monotonic()
    parameters = dict(method.named_parameters())
    optimizer = build_optimizer(method, recipe)
    averages: dict[str, Tensor] = {}
    averaged_weight = 0.0
    first_epoch, first_step = 0, 0
    loss_sum, correct, seen = 0.0, 0, 0
    earlier_seconds, earlier_peak = 0.0, 0
    state = shared_checkpoint(checkpoint_path, run_key)
    log_path = log_path if is_first() else None  # only one rank writes
    if state is not None:
        first_epoch, first_step, averaged_weight = state.epoch, state.step, state.averaged_weight
        loss_sum, correct, seen = state.loss_sum, state.correct, state.seen
        earlier_seconds, earlier_peak = state.seconds, state.peak_memory_bytes
        if dict(state.feed) != feed.state:
            raise CheckpointError(
                f"checkpoint {checkpoint_path} was written with another feed ({state.feed}) than this one ({feed.state}); remove it, or"
                " pass --overwrite to start again"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state.tensors[f"parameter.{name}"])
                for key in _OPTIMIZER_STATE:
                    if f"optimizer.{key}.{name}" in state.tensors:
                        kept = state.tensors[f"optimizer.{key}.{name}"].clone()
                        # The optimizer counts its steps on the CPU.
                        optimizer.state[parameter][key] = kept if key == "step" else kept.to(parameter.device)
                if f"average.{name}" in state.tensors:
                    averages[name] = state.tensors[f"average.{name}"].to(parameter.device, copy=True)
    if log_path is not None:
        _cut_log(log_path, first_epoch)

    steps = num_steps(feed.num_pictures, recipe.batch_size)
    all_steps = recipe.epochs * steps if recipe.steps is None else recipe.steps
    epochs = math.ceil(all_steps / steps)
    last_write = time.monotonic()
    stepper = _Stepper(method, limits or ChunkLimits(), min(recipe.batch_size, feed.num_pictures))

    def save(epoch: int, step: int) -> None:
        if checkpoint_path is None or not is_first():
            return
        if before_save is not None:
            before_save()
        tensors: dict[str, Tensor] = {f"parameter.{name}": parameter for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            kept = optimizer.state[parameter]
            tensors |= {f"optimizer.{key}.{name}": kept[key] for key in _OPTIMIZER_STATE if kept.get(key) is not None}
        tensors |= {f"average.{name}": average for name, average in averages.items()}
        write_checkpoint(
            checkpoint_path,
            Checkpoint(
                run_key=run_key,
                epoch=epoch,
                step=step,
                averaged_weight=averaged_weight,
                seconds=earlier_seconds + time.monotonic() - begun,
                peak_memory_bytes=max(earlier_peak, peak_memory_bytes()),
                loss_sum=loss_sum,
                correct=correct,
                seen=seen,
                feed=feed.state,
                tensors=tensors,
            ),
        )

    place = first_epoch, first_step  # of the next step: what has been learnt is whole there, and may be written
    with _stop_signals() as stop, _kept_where_a_rank_is_lost(lambda: save(*place)), _freed_memory_kept():
        for epoch in range(first_epoch, epochs):
            # The last epoch is cut short where the length was given in steps.
            steps_here = min(steps, all_steps - epoch * steps)
            if first_step == 0:
                loss_sum, correct, seen = 0.0, 0, 0
            batches = feed.batches(epoch, recipe.batch_size, first_step)
            for step, batch in enumerate(itertools.islice(batches, steps_here - first_step), start=first_step):
                progress = batch.number / all_steps
                set_rates(optimizer, recipe, epoch, progress)
                output, loss = stepper.step(batch, epoch)
                if recipe.clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
                share_gradients(parameters.values())
                optimizer.step()

                size = len(batch.labels)
                loss_sum, seen = loss_sum + loss * size, seen + size
                correct += int((output.logits.argmax(dim=1) == batch.labels).sum())
                if on_step is not None:
                    on_step(
                        StepReport(
                            epoch=epoch,
                            step=step,
                            done=epoch * steps + step + 1,
                            steps=all_steps,
                            loss=loss_sum / seen,
                            accuracy=correct / seen,
                            step_loss=loss,
                            terms=output.terms,
                            rate=rate_at(recipe, epoch, progress=progress),
                            seconds=earlier_seconds + time.monotonic() - begun,
                        )
                    )
                if step + 1 < steps_here:
                    place = epoch, step + 1
                    stops = any_rank(stop.is_set())
                    if stops or time.monotonic() - last_write > _SECONDS_BETWEEN_CHECKPOINTS:
                        save(*place)
                        last_write = time.monotonic()
                    if stops:
                        wait_for_all()  # else the end of one rank could break the writing of another
                        raise InterruptedRun(_stopped(epoch, epochs, checkpoint_path))
            first_step = 0
            weight = averaging_weight(recipe, epoch, epochs)
            if weight > 0:
                averaged_weight += weight
                for name, parameter in parameters.items():
                    before = averages.get(name, torch.zeros_like(parameter))
                    averages[name] = before + (parameter.detach() - before) * (weight / averaged_weight)
            if log_path is not None:
                line = {
                    "epoch": epoch,
                    "rate": rate_at(recipe, epoch, progress=progress),
                    "loss": loss_sum / seen,
                    "accuracy": correct / seen,
                }
                line |= {f"last_{name}": float(term.detach()) for name, term in output.terms.items()}
                _append_line(log_path, line)
            place = epoch + 1, 0
            stops = any_rank(stop.is_set())
            if stops or time.monotonic() - last_write > _SECONDS_BETWEEN_CHECKPOINTS:
                save(*place)
                last_write = time.monotonic()
            if stops:
                wait_for_all()
                raise InterruptedRun(_stopped(epoch, epochs, checkpoint_path))

    if averages:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(averages[name])
    # No loss was taken after the last step.
    for name, parameter in parameters.items():
        if not bool(parameter.detach().isfinite().all()):
            raise ConfigError(
                f"parameter {name} is no longer finite after the last step; lower the rate (--set recipe.rate=...) and start again"
            )
    return Taken(
        steps=all_steps,
        seconds=earlier_seconds + time.monotonic() - begun,
        earlier_seconds=earlier_seconds,
        peak_memory_bytes=max(earlier_peak, peak_memory_bytes()),
    )


class _Stepper:
    """Takes training steps within limits of memory, which it tightens once where that is not enough."""

    def __init__(self, method: Method, limits: ChunkLimits, batch_size: int) -> None:
        self._method, self._tightened = method, False
        self._rows = method.text_encodings_per_step * (batch_size if method.needs_text_to_predict else 1)
        usual = usual_rows(method.backbone.require_text()[0]) if self._rows > 0 else limits.rows
        self._limits = dataclasses.replace(limits, rows=min(limits.rows, usual))

    def step(self, batch: Batch, epoch: int) -> tuple[StepOutput, float]:
        """What a step gives and its loss, with the gradients in place."""
        try:
            return self._step(batch, epoch)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
            reason = str(problem)[:200]
        # Outside of the handler, which holds on to what the step had in memory.
        at_a_time = min(self._limits.rows, self._rows)
        rows = max(1, at_a_time // 4)
        # The graph of pictures that were encoded for this step is gone, and other ranks would wait for a step that they have done.
        if self._tightened or self._rows == 0 or batch.image_features.requires_grad or num_ranks() > 1:
            raise OutOfMemoryError(
                f"out of memory with {at_a_time} prompts at a time ({reason}); allow less with --max-memory, take a smaller"
                " --set recipe.batch_size=N, or choose another --device"
            )
        _logger.warning("out of memory; from now on %d prompts at a time instead of %d", rows, at_a_time)
        self._limits, self._tightened = dataclasses.replace(self._limits, rows=rows, kept_rows=0), True
        keep_freed_memory(False)
        self._method.zero_grad()
        gc.collect()
        hand_back_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.step(batch, epoch)

    def _step(self, batch: Batch, epoch: int) -> tuple[StepOutput, float]:
        with limit_chunks(self._limits):
            output = self._method.training_step(batch)
            loss = float(output.loss.detach())
            if not math.isfinite(loss):
                raise ConfigError(
                    f"the loss became {loss} in epoch {epoch + 1}; lower the rate (--set recipe.rate=...) and start again"
                )
            self._method.zero_grad()
            self._method.backward(output)
        # Without its graph, which would else be in memory until the next step is taken.
        terms = {name: term.detach() for name, term in output.terms.items()}
        return StepOutput(loss=output.loss.detach(), logits=output.logits.detach(), terms=terms), loss


def _stopped(epoch: int, epochs: int, checkpoint_path: Path | None) -> str:
    kept = (
        "nothing was kept, there is no run folder"
        if checkpoint_path is None
        else f"the state is in {checkpoint_path}; --resume goes on"
    )
    return f"stopped in epoch {epoch + 1} of {epochs}; {kept}"


@contextlib.contextmanager
def _kept_where_a_rank_is_lost(save: Callable[[], None]) -> Iterator[None]:
    """Ranks meet only between what ``save`` writes whole, so nothing of the steps that are done need be lost."""
    try:
        yield
    except LostRankError:
        save()
        raise


@contextlib.contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Within the block what a step frees is kept for the next; at its end it is handed back, to whatever else this process does."""
    keep_freed_memory()
    try:
        yield
    finally:
        hand_back_freed_memory()


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Within the block Ctrl-C and SIGTERM set an event instead of breaking a step in two. A second Ctrl-C ends at once, but not one of
    several ranks, to which whoever started them passes on each signal and more, and which they end themselves in the end."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and num_ranks() == 1:
            raise KeyboardInterrupt
        stop.set()

    before: dict[signal.Signals, Any] = {kind: signal.signal(kind, ask_to_stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _cut_log(path: Path, first_epoch: int) -> None:
    """Keep the lines of the epochs that are done, so that a resumed log has each epoch once."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _epoch_of(line) < first_epoch]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _epoch_of(line: str) -> int:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return 2**31  # a line cut short by a crash


def _append_line(path: Path, line: dict[str, Any]) -> None:
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
