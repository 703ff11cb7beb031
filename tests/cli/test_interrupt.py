"""Ctrl-C at any time: exit code 130, one line, nothing broken; --resume then gives what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.new_processes import Command

from promptmix.features import extract
from promptmix.model_folder import read_model
from promptmix.training import loop, run

Promptmix = Callable[..., Any]

# Several batches an epoch, so that a signal comes in the middle of one.
OPTIONS = ["--epochs", "24", "--set", "recipe.batch_size=4", "--set", "recipe.averaging=second_half"]


def wait_for_lines(path: Path, lines: int, process: Command) -> None:
    deadline = time.monotonic() + 60
    while not path.is_file() or len(path.read_text(encoding="utf-8").splitlines()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training has not begun within a minute"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(promptmix: Promptmix, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    promptmix("train", photos, "--out", out, *OPTIONS).works()
    return out


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_training_and_resumed_is_the_uninterrupted_one(
    promptmix: Promptmix, photos: Path, whole: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    cut = tmp_path / "cut"
    process = Command(tmp_path / "said", "train", photos, "--out", cut, *OPTIONS)
    wait_for_lines(cut / "log.jsonl", 6, process)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.count("\n") == 1
    assert "stopped in epoch" in err
    assert f"the state is in {cut / 'checkpoint.safetensors'}; --resume goes on" in err
    assert (cut / "checkpoint.safetensors").is_file()
    assert not (cut / "model").exists()
    split = (cut / "split.json").read_bytes()
    promptmix("predict", cut, photos).fails(5, "no model yet", "--resume")
    # Without being told so nothing goes on, and nothing is thrown away.
    promptmix("train", photos, "--out", cut, *OPTIONS).fails(4, "--overwrite or --resume")

    promptmix("train", photos, "--out", cut, *OPTIONS, "--resume").works()
    for name in ("model/model.safetensors", "model/config.json", "log.jsonl", "predictions.csv", "split.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert (cut / "split.json").read_bytes() == split
    assert not (cut / "checkpoint.safetensors").exists()


def press(times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_stopped_while_pictures_are_read_loses_nothing(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTMIX_CACHE", str(tmp_path / "cache"))
    encode, encoded = extract._encode, 0

    def stop_at_the_second(backbone: Any, pixels: Any) -> Any:
        nonlocal encoded
        encoded += 1
        if encoded == 2:
            press()
        return encode(backbone, pixels)

    arguments = ["train", photos, "--out", tmp_path / "out", "--epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(extract, "_encode", stop_at_the_second)
        promptmix(*arguments).fails(130, "interrupted", "--resume", str(tmp_path / "out"))
    assert encoded == 2
    promptmix(*arguments, "--resume").works()
    promptmix(*arguments[:3], tmp_path / "whole", *arguments[4:], "--no-cache").works()
    for name in ("model/model.safetensors", "split.json", "predictions.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("verb", ["predict", "eval"])
def test_other_verbs_stop_in_one_line(
    promptmix: Promptmix, photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(extract, "_encode", lambda *_: press())
    promptmix(verb, trained, photos, "--no-cache").fails(130, "interrupted")


@pytest.mark.parametrize("name", ["write_model", "write_result", "_write_predictions"])
def test_a_run_stopped_while_it_is_saved_can_be_finished(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = ["train", photos, "--out", tmp_path / "out", "--epochs", "1", "--shots", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(run, name, lambda *_, **__: press())
        promptmix(*arguments).fails(130, "interrupted", "--resume")
    promptmix(*arguments, "--resume").works()
    assert read_model(tmp_path / "out").class_names == ("anchor", "cat", "skull")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_the_second_ctrl_c_ends_at_once(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def counted(*_: object, **__: object) -> None:
        nonlocal steps
        steps += 1
        press(2)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(loop, "StepReport", counted)
    promptmix("train", photos, "--out", tmp_path / "out").fails(130, "interrupted", "--resume")
    assert steps == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def stopped(promptmix: Promptmix, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in its fourth step, with a checkpoint. Copy it before changing it."""
    out, report, steps = tmp_path_factory.mktemp("stopped") / "out", loop.StepReport, 0

    def stop_at_the_fourth(**facts: Any) -> loop.StepReport:
        nonlocal steps
        steps += 1
        if steps == 4:
            press()
        return report(**facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StepReport", stop_at_the_fourth)
        promptmix(*continued(photos, out)[:-1]).fails(130, "stopped in epoch 2 of 3", "--resume")
    return out


def continued(photos: Path, out: Path) -> list[str | Path]:
    return ["train", photos, "--out", out, "--shots", "3", "--epochs", "3", "--set", "recipe.batch_size=3", "--resume"]


def test_no_flipped_bit_in_a_checkpoint_goes_unnoticed(stopped: Path, tmp_path: Path) -> None:
    from promptmix.errors import CheckpointError
    from promptmix.training.checkpoint import read_checkpoint

    whole = (stopped / "checkpoint.safetensors").read_bytes()
    key = json.loads((stopped / "run.json").read_text(encoding="utf-8"))["run_key"]
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(whole)
    read_checkpoint(path, key)
    for place in [*range(1600), *range(1600, len(whole), 9973), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            read_checkpoint(path, key)


def test_a_damaged_checkpoint_is_not_gone_on_from(promptmix: Promptmix, photos: Path, stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    path = out / "checkpoint.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(damaged)
        promptmix(*continued(photos, out)).fails(5, "checkpoint", "damaged", "--overwrite to start again")
    path.unlink()
    promptmix(*continued(photos, out)).works()  # from the beginning


def test_a_checkpoint_of_another_run_is_refused(promptmix: Promptmix, photos: Path, stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    promptmix(*continued(photos, out), "--seed", "2").fails(5, "other options, pictures or backbone", "--overwrite")
    shutil.rmtree(out / "model", ignore_errors=True)
    other = tmp_path / "other"
    promptmix(*continued(photos, other)[:-1], "--seed", "2").works()
    (other / "result.json").unlink()
    shutil.copy(out / "checkpoint.safetensors", other)
    promptmix(*continued(photos, other), "--seed", "2").fails(5, "checkpoint", "other options, pictures or backbone")


def test_skipping_bad_pictures_may_be_decided_when_resuming(
    promptmix: Promptmix, photos: Path, stopped: Path, tmp_path: Path
) -> None:
    """What is learnt from is the same, so the run may go on."""
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    promptmix(*continued(photos, out), "--skip-bad").works()
    promptmix(*continued(photos, tmp_path / "whole")[:-1]).works()
    learnt = "model/model.safetensors"
    assert (out / learnt).read_bytes() == (tmp_path / "whole" / learnt).read_bytes()
