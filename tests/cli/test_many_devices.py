"""train under torchrun: one writes and tells, a dead rank ends the run, and any number of ranks goes on with what there is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.many_ranks import command_on_ranks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the ranks in /proc")

Promptmix = Callable[..., Any]

# Gently, so that what differs by rounding has not grown after hundreds of steps.
OPTIONS = ["--method", "coop", "--epochs", "24", "--set", "recipe.batch_size=4", "--set", "recipe.rate=0.0002", "--no-cache"]
OPTIONS += ["--set", "recipe.averaging=second_half"]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "promptmix"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*torchrun, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def said(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """What was printed, and what promptmix told on stderr: torchrun has much to say there too."""
    out, err = process.communicate(timeout=120)
    return out, [line for line in err.splitlines() if line.startswith("promptmix: ")]


def process_of_rank(rank: int, torchrun: subprocess.Popen[str]) -> int:
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(torchrun.pid) and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"there is no rank {rank}")


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while not path.is_file() or len(path.read_text(encoding="utf-8").splitlines()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training has not begun"
        time.sleep(0.005)


def assert_same_model(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "class_features.safetensors"):
        tensors, others = load_file(one / "model" / name), load_file(other / "model" / name)
        torch.testing.assert_close(tensors, others, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def whole(promptmix: Promptmix, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "out"
    promptmix("train", photos, "--out", out, *OPTIONS).works()
    return out


def test_two_ranks_write_the_run_of_one(promptmix: Promptmix, photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("train", photos, "--out", out, *OPTIONS)
    printed, told = said(process)
    assert process.returncode == 0
    assert told == []
    assert printed.count("\nmodel: ") == 1 and printed.count("note: run on 2 ranks\n") == 1
    assert_same_model(out, whole)
    assert (out / "split.json").read_bytes() == (whole / "split.json").read_bytes()
    assert sorted(path.name for path in out.rglob("*")) == sorted(path.name for path in whole.rglob("*"))
    epochs = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    before = [json.loads(line) for line in (whole / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in epochs] == list(range(24))
    assert [line["loss"] for line in epochs] == pytest.approx([line["loss"] for line in before], abs=1e-4)
    measured, expected = (json.loads((one / "result.json").read_text(encoding="utf-8")) for one in (out, whole))
    assert measured["metrics"]["accuracy"] == expected["metrics"]["accuracy"]
    # Finished is finished, however many ask.
    codes, printed, told = command_on_ranks(2, tmp_path / "ranks", "train", photos, "--out", out, *OPTIONS, "--resume")
    assert (codes, printed.count("\nmodel: "), len(told)) == ([0, 0], 1, 1)
    assert "finished before" in told[0]


def killed(process: subprocess.Popen[str]) -> str:
    os.kill(process_of_rank(1, process), signal.SIGKILL)
    begun = time.monotonic()
    _, told = said(process)
    assert time.monotonic() - begun < 60
    assert len(told) == 1, told
    return told[0]


def stopped(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    _, told = said(process)
    assert len(told) == 1, told
    return told[0]


@pytest.mark.parametrize(
    ("end", "words", "ranks"),
    [
        (killed, ("rank 1 of 2 ended without a word", "--resume, on any number of ranks"), 1),
        (stopped, ("stopped in epoch", "--resume goes on"), 2),
    ],
)
def test_a_run_that_ended_early_is_resumed_on_any_number_of_ranks(
    promptmix: Promptmix,
    photos: Path,
    whole: Path,
    tmp_path: Path,
    end: Callable[[subprocess.Popen[str]], str],
    words: tuple[str, ...],
    ranks: int,
) -> None:
    out = tmp_path / "out"
    process = start("train", photos, "--out", out, *OPTIONS)
    wait_for_lines(out / "log.jsonl", 3, process)
    line = end(process)
    assert process.returncode != 0
    for word in words:
        assert word in line
    assert (out / "checkpoint.safetensors").is_file() and not (out / "result.json").exists()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    if ranks == 1:
        promptmix("train", photos, "--out", out, *OPTIONS, "--resume").works()
    else:
        codes, _, told = command_on_ranks(ranks, tmp_path / "ranks", "train", photos, "--out", out, *OPTIONS, "--resume")
        assert told == [] and codes == [0] * ranks
    assert_same_model(out, whole)


def test_what_is_wrong_on_one_rank_is_told_once(photos: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(photos, tmp_path / "broken")) / "skull" / "99.png"
    broken.write_bytes(b"no picture")
    process = start("train", tmp_path / "broken", "--out", tmp_path / "out", "--hold-out", "0", *OPTIONS)
    printed, told = said(process)
    assert process.returncode != 0 and printed == ""
    assert len(told) == 1, told
    assert "of 2: " in told[0] and "99.png" in told[0] and "--skip-bad" in told[0]
    codes, _, told = command_on_ranks(
        2, tmp_path / "ranks", "train", photos, "--out", tmp_path / "out2", "--set", "method.wordz=no"
    )
    assert codes == [3, 3]
    assert [line.partition("of 2: ")[2][:25] for line in told] == ["options of method mocoop:"]
