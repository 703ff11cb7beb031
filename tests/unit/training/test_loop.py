"""The loop: what it counts, how it resumes, what it averages. With a linear classifier, whose steps cost nothing."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from promptmix import runtime
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, ConfigError, InterruptedRun, OutOfMemoryError
from promptmix.memory import held_memory_bytes
from promptmix.methods.base import Method, MethodConfig, Recipe
from promptmix.prompts.chunks import ChunkLimits, chunk_limits
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput
from promptmix.training import loop
from promptmix.training.feeds import CachedFeed
from promptmix.training.fit import RunConfig, learn, prepare
from promptmix.training.loop import StepReport, Taken, train
from promptmix.training.optim import averaging_weight, build_optimizer, rate_at

CLASSES = ("anchor", "cat", "gear")
PICTURES, WIDTH = 12, 5


class Linear(Method):
    """Logits linear in the features, with noise that depends on the step's number alone."""

    name = "linear, for tests"
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "by gradient"

    def __init__(self, backbone: Backbone, class_names: Sequence[str] = CLASSES) -> None:
        super().__init__(MethodConfig(), backbone, class_names)
        self.weight = nn.Parameter(torch.randn(len(class_names), WIDTH, generator=torch_generator(3, "weight")))
        self.bias = nn.Parameter(torch.ones(len(class_names)))
        self.seen: list[int] = []

    def rate_multiplier(self, parameter_name: str) -> float:
        return 0.1 if parameter_name == "bias" else 1.0

    def training_step(self, batch: Batch) -> StepOutput:
        self.seen.append(batch.number)
        noise = 0.1 * torch.randn(batch.image_features.shape, generator=torch_generator(0, f"noise of step {batch.number}"))
        logits = functional.linear(batch.image_features + noise, self.weight, self.bias)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def feed() -> CachedFeed:
    features = torch.randn(PICTURES, 2, WIDTH, generator=torch_generator(0, "features"))
    return CachedFeed(features, torch.arange(PICTURES) % 3, 1)


RECIPES: dict[str, dict[str, Any]] = {
    "SGD by epoch": {"epochs": 4, "rate": 0.2, "warmup_epochs": 1},
    "AdamW by epoch": {"epochs": 4, "rate": 0.05, "warmup_epochs": 1, "optimizer": "adamw", "weight_decay": 0.1},
    "AdamW by step": {"steps": 11, "rate": 0.05, "schedule": "step", "final_rate": 1e-3, "optimizer": "adamw", "epsilon": 1e-4},
    "SGD by step, epochs": {"epochs": 4, "rate": 0.2, "schedule": "step"},
    "a mean by a normal density": {
        "epochs": 4,
        "rate": 0.2,
        "averaging": "gaussian",
        "averaging_mean": 3,
        "averaging_deviation": 0.8,
    },
    "a mean over half of a length in steps": {"steps": 11, "schedule": "step", "rate": 0.2, "averaging": "second_half"},
}
EVERY = pytest.mark.parametrize("name", RECIPES)


def recipe(name: str) -> Recipe:
    return Recipe.model_validate({"batch_size": 4, **RECIPES[name]})


def by_hand(method: Linear, asked: Recipe) -> list[dict[str, Tensor]]:
    """A loop as short as can be; the parameters after each epoch, the last of which may be cut short."""
    steps = PICTURES // asked.batch_size
    length = asked.epochs * steps if asked.steps is None else asked.steps
    groups: list[dict[str, Any]] = [{"params": [method.weight]}, {"params": [method.bias]}]
    if asked.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=asked.momentum, weight_decay=asked.weight_decay)
    else:
        optimizer = torch.optim.AdamW(groups, eps=asked.epsilon, weight_decay=asked.weight_decay)
    after: list[dict[str, Tensor]] = []
    for number in range(length):
        epoch = number // steps
        for group, multiplier in zip(optimizer.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = rate_at(asked, epoch, multiplier, number / length)
        batch = next(iter(feed().batches(epoch, asked.batch_size, number % steps)))
        optimizer.zero_grad()
        method.training_step(batch).loss.backward()
        optimizer.step()
        if number % steps == steps - 1 or number == length - 1:
            after.append(method.learnt_state())
    return after


@EVERY
def test_the_loop_is_the_short_one(name: str, backbone: Backbone) -> None:
    asked, ours, plain = recipe(name), Linear(backbone), Linear(backbone)
    length = train(ours, asked, feed()).steps
    epochs = by_hand(plain, asked)
    assert ours.seen == plain.seen == list(range(length))
    expected = epochs[-1]
    if asked.averaging != "none":
        weights = torch.tensor([averaging_weight(asked, epoch, len(epochs)) for epoch in range(len(epochs))])
        expected = {
            key: sum(float(weight) * state[key] for weight, state in zip(weights / weights.sum(), epochs, strict=True))
            for key in expected
        }
        assert not torch.allclose(expected["weight"], epochs[-1]["weight"], rtol=1e-3)
    for key, value in ours.learnt_state().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("averaging", ["none", "second_half"])
def test_a_last_step_that_leaves_no_finite_parameters_is_an_error(averaging: str, backbone: Backbone) -> None:
    class Diverging(Linear):
        def backward(self, output: StepOutput) -> None:
            super().backward(output)
            if self.seen[-1] == 2:  # the last of three steps
                self.bias.grad = torch.full_like(self.bias, float("inf"))

    method = Diverging(backbone)
    asked = Recipe.model_validate({"batch_size": 4, "epochs": 1, "warmup_epochs": 0, "averaging": averaging})
    with pytest.raises(ConfigError, match=r"parameter bias is no longer finite after the last step; lower the rate"):
        train(method, asked, feed())
    assert method.seen == [0, 1, 2]


def stop_after(count: int) -> Any:
    def stop(report: StepReport) -> None:
        if report.done == count:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


@EVERY
@pytest.mark.parametrize("stop", [1, 3, 5, 9, 10])  # in an epoch, and at the end of one
def test_a_resumed_run_is_the_uninterrupted_one(name: str, stop: int, backbone: Backbone, tmp_path: Path) -> None:
    whole, cut, resumed = (Linear(backbone) for _ in range(3))
    length = train(whole, recipe(name), feed(), log_path=tmp_path / "whole.jsonl").steps
    path, log = tmp_path / "checkpoint.safetensors", tmp_path / "log.jsonl"
    with pytest.raises(InterruptedRun, match="--resume"):
        train(cut, recipe(name), feed(), checkpoint_path=path, log_path=log, on_step=stop_after(stop))
    assert train(resumed, recipe(name), feed(), checkpoint_path=path, log_path=log).steps == length
    assert cut.seen + resumed.seen == list(range(length))
    for key, value in whole.learnt_state().items():
        assert torch.equal(value, resumed.learnt_state()[key]), key
    assert log.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_checkpoint_of_adamw_has_its_moments_and_its_count(backbone: Backbone, tmp_path: Path) -> None:
    from promptmix.training.checkpoint import read_checkpoint

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRun):
        train(Linear(backbone), recipe("AdamW by step"), feed(), checkpoint_path=path, run_key="mine", on_step=stop_after(5))
    checkpoint = read_checkpoint(path, "mine")
    keys = {f"optimizer.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in ("weight", "bias")}
    assert checkpoint.tensors.keys() == keys | {"parameter.weight", "parameter.bias"}
    assert float(checkpoint.tensors["optimizer.step.weight"]) == 5
    assert (checkpoint.epoch, checkpoint.step) == (1, 2)
    with pytest.raises(CheckpointError, match="other options"):
        read_checkpoint(path, "another's")


def test_running_averages_are_in_a_checkpoint_with_their_weight(backbone: Backbone, tmp_path: Path) -> None:
    from promptmix.training.checkpoint import read_checkpoint

    path, asked = tmp_path / "checkpoint.safetensors", recipe("a mean by a normal density")
    with pytest.raises(InterruptedRun):
        train(Linear(backbone), asked, feed(), checkpoint_path=path, on_step=stop_after(7))
    checkpoint = read_checkpoint(path, "")
    assert checkpoint.averaged_weight == pytest.approx(sum(averaging_weight(asked, epoch, 4) for epoch in (0, 1)))
    epochs = by_hand(Linear(backbone), asked)
    first, second = (averaging_weight(asked, epoch, 4) / checkpoint.averaged_weight for epoch in (0, 1))
    expected = first * epochs[0]["weight"] + second * epochs[1]["weight"]
    torch.testing.assert_close(checkpoint.tensors["average.weight"], expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_now_and_then_changes_nothing(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole, kept = Linear(backbone), Linear(backbone)
    train(whole, recipe("AdamW by step"), feed())
    train(kept, recipe("AdamW by step"), feed(), checkpoint_path=tmp_path / "checkpoint.safetensors")
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert all(torch.equal(value, kept.learnt_state()[key]) for key, value in whole.learnt_state().items())


def test_seconds_and_memory_are_those_of_all_legs(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptmix.training.checkpoint import read_checkpoint

    clock, held = [1000.0], [700]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "peak_memory_bytes", lambda: held[0])
    path, asked = tmp_path / "checkpoint.safetensors", recipe("SGD by epoch")

    def step_of_ten_seconds(report: StepReport, stop: int = 0) -> None:
        clock[0] += 10
        stop_after(stop)(report)

    for stop, peak in ((5, 700), (8, 500)):
        held[0] = peak
        with pytest.raises(InterruptedRun):
            train(
                Linear(backbone), asked, feed(), checkpoint_path=path, on_step=functools.partial(step_of_ten_seconds, stop=stop)
            )
        checkpoint = read_checkpoint(path, "")
        assert (checkpoint.seconds, checkpoint.peak_memory_bytes) == (10 * stop, 700)
        clock[0] += 5000  # nobody trained
    taken = train(Linear(backbone), asked, feed(), checkpoint_path=path, on_step=step_of_ten_seconds)
    assert taken == Taken(steps=12, seconds=120, earlier_seconds=80, peak_memory_bytes=700)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 9])
def test_a_length_in_steps_is_kept_and_told(steps: int, backbone: Backbone, tmp_path: Path) -> None:
    method, told = Linear(backbone), list[StepReport]()
    asked = Recipe(steps=steps, schedule="step", batch_size=4, rate=0.1)
    assert train(method, asked, feed(), log_path=tmp_path / "log.jsonl", on_step=told.append).steps == steps
    assert method.seen == list(range(steps))
    assert [one.done for one in told] == list(range(1, steps + 1))
    assert {one.steps for one in told} == {steps}
    assert [(one.epoch, one.step) for one in told] == [divmod(number, 3) for number in range(steps)]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(-(-steps // 3)))
    last_steps = [min(3 * epoch + 2, steps - 1) for epoch in range(len(lines))]
    assert [line["rate"] for line in lines] == pytest.approx([rate_at(asked, 0, progress=last / steps) for last in last_steps])


def test_a_run_tells_its_progress_to_the_end(backbone: Backbone) -> None:
    drawn = draw_set(CLASSES, ("photo",), 4, 1)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    pictures = LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")
    told: list[tuple[int, int]] = []

    def tell(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training":
            told.append((done, total))

    changes = {"steps": 5, "schedule": "step", "batch_size": 4}
    config = RunConfig.model_validate({"method": "coop", "options": {"context_tokens": 2}, "recipe": changes})
    learn(prepare(config, pictures, backbone=backbone), on_progress=tell)
    assert told == [(done, 5) for done in range(1, 6)]


def test_an_optimizer_has_a_group_a_parameter(backbone: Backbone) -> None:
    asked = recipe("AdamW by step")
    optimizer = build_optimizer(Linear(backbone), asked)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(group["name"], group["multiplier"]) for group in optimizer.param_groups] == [("weight", 1.0), ("bias", 0.1)]
    assert {(group["eps"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups} == {
        (1e-4, 5e-4, (0.9, 0.999))
    }


def test_a_method_may_put_its_gradients_in_place_itself(backbone: Backbone) -> None:
    class Guided(Linear):
        def backward(self, output: StepOutput) -> None:
            for parameter in self.parameters():
                parameter.grad = torch.ones_like(parameter)

    method, before = Guided(backbone), Linear(backbone).learnt_state()
    train(method, Recipe(steps=1, schedule="step", rate=0.5, weight_decay=0, batch_size=4), feed())
    torch.testing.assert_close(method.learnt_state()["weight"], before["weight"] - 0.5)
    torch.testing.assert_close(method.learnt_state()["bias"], before["bias"] - 0.05)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


class Hungry(Linear):
    """Runs out of memory where more than ``fit`` prompts are encoded at a time, before its backward pass or within it."""

    def __init__(self, backbone: Backbone, fit: int, late: bool, rows: int = 4000) -> None:
        super().__init__(backbone)
        self.fit, self.late, self.rows = fit, late, rows

    @property
    def text_encodings_per_step(self) -> int:
        return self.rows

    def training_step(self, batch: Batch) -> StepOutput:
        if not self.late:
            self._take()
        return super().training_step(batch)

    def backward(self, output: StepOutput) -> None:
        super().backward(output)
        if self.late:
            self._take()

    def _take(self) -> None:
        if min(chunk_limits().rows, self.text_encodings_per_step) > self.fit:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
            )


@pytest.mark.parametrize("late", [False, True])
def test_where_memory_runs_out_once_fewer_prompts_at_a_time_give_the_same(
    late: bool, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    features = functional.normalize(torch.randn(PICTURES, 1, WIDTH, generator=torch_generator(0, "pictures")), dim=-1)
    labels = torch.arange(PICTURES) % 3
    taken = []
    for fit in (10_000, 300):
        method = Hungry(backbone, fit, late)
        train(
            method, Recipe(epochs=3, batch_size=4, rate=0.1), CachedFeed(features, labels, 1), limits=ChunkLimits(kept_rows=2048)
        )
        taken.append(method.learnt_state())
    for name, value in taken[0].items():
        assert torch.equal(value, taken[1][name])
    assert [record.message for record in caplog.records] == ["out of memory; from now on 256 prompts at a time instead of 1024"]


def test_where_memory_runs_out_what_was_freed_is_handed_back_and_room_is_made_as_planned(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    method = Hungry(backbone, 300, False)
    take = method.training_step

    def watched(batch: Batch) -> StepOutput:
        done.append(chunk_limits())
        return take(batch)

    monkeypatch.setattr(method, "training_step", watched)
    monkeypatch.setattr(loop, "hand_back_freed_memory", lambda: done.append("handed back"))
    pictures = CachedFeed(torch.ones(PICTURES, 1, WIDTH), torch.arange(PICTURES) % 3, 1)
    train(method, Recipe(epochs=1, batch_size=PICTURES), pictures, limits=ChunkLimits(kept_rows=2048, full_bytes=2**40))
    # At the end for what else the process does.
    tightened = ChunkLimits(rows=256, kept_rows=0, full_bytes=2**40)
    assert done == [ChunkLimits(kept_rows=2048, full_bytes=2**40), "handed back", tightened, "handed back"]


@pytest.mark.skipif(runtime._glibc() is None, reason="only glibc is asked what it does with freed memory")
def test_what_training_has_freed_is_no_longer_held_after_it(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method, learnt = Linear(backbone), []
    take = method.training_step

    def wasteful(batch: Batch) -> StepOutput:
        blocks = [torch.ones(2**18) for _ in range(200)]
        learnt.append(blocks.pop())  # behind the others, so that the end of the heap alone frees nothing
        return take(batch)

    monkeypatch.setattr(method, "training_step", wasteful)
    runtime.hand_back_freed_memory()  # what earlier tests left
    before = held_memory_bytes()
    pictures = CachedFeed(torch.ones(PICTURES, 1, WIDTH), torch.arange(PICTURES) % 3, 1)
    train(method, Recipe(epochs=1, batch_size=PICTURES), pictures)
    assert len(learnt) == 1
    assert held_memory_bytes() < before + 100 * 2**20


def test_a_step_of_few_prompts_is_cut_too(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    method = Hungry(backbone, 10, False, rows=40)
    train(method, Recipe(epochs=1, batch_size=4), CachedFeed(torch.ones(PICTURES, 1, WIDTH), torch.arange(PICTURES) % 3, 1))
    assert [record.message for record in caplog.records] == ["out of memory; from now on 10 prompts at a time instead of 40"]


def test_where_memory_runs_out_again_the_run_ends_and_says_what_to_do(backbone: Backbone) -> None:
    features = torch.ones(PICTURES, 1, WIDTH)
    method = Hungry(backbone, 100, False)
    with pytest.raises(
        OutOfMemoryError, match=r"out of memory with 256 prompts at a time \(.*alloc_cpu.*\); allow less with --max-mem"
    ):
        train(method, Recipe(epochs=1, batch_size=4), CachedFeed(features, torch.arange(PICTURES) % 3, 1))
    assert chunk_limits() == ChunkLimits()


def test_other_errors_are_not_taken_for_a_lack_of_memory(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Linear(backbone)

    def broken(batch: Batch) -> StepOutput:
        method.seen.append(batch.number)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(method, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(method, Recipe(epochs=1, batch_size=4), CachedFeed(torch.ones(PICTURES, 1, WIDTH), torch.arange(PICTURES) % 3, 1))
    assert method.seen == [0]
