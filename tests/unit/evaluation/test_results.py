"""Records of runs: what is written is read again, refused where it is not whole, and small at a thousand classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.reporting.made_results import run

from promptmix.errors import CheckpointError
from promptmix.evaluation.metrics import measure
from promptmix.evaluation.results import (
    device_name,
    peak_device_memory_bytes,
    peak_memory_bytes,
    read_bench_result,
    reset_peak_memory,
    write_result,
)


def metrics(num_pictures: int, num_classes: int) -> dict[str, Any]:
    """Of guesses, so that hardly two pictures share a cell of the confusion."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_pictures, num_classes, generator=generator)
    labels = torch.randint(num_classes, (num_pictures,), generator=generator)
    return measure(logits, labels, [f"class {number}" for number in range(num_classes)]).to_json()


def test_a_result_with_a_thousand_classes_is_small(tmp_path: Path) -> None:
    measured = metrics(5000, 1000)
    result = run("coop", {"test": 3}, measures={"test": measured}, zero_shot={"test": measured})
    write_result(tmp_path / "result.json", result)
    # Each of the two has a line a class and at most one a picture.
    assert (tmp_path / "result.json").stat().st_size < 2 * (1000 * 60 + 5000 * 40)
    assert read_bench_result(tmp_path / "result.json") == result


def test_lists_of_numbers_stand_on_one_line_and_words_as_they_are(tmp_path: Path) -> None:
    notes = ["[\n1,\n2\n]", "[ 1,  2 ]", "a\\nb"]
    result = run("coop", {"test": 3}, notes=notes, measures={"test": {"numbers": [1, -2.5e-7], "empty": [], "words": ["1", "2"]}})
    write_result(tmp_path / "result.json", result)
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == json.loads(result.model_dump_json())
    assert '"numbers": [ 1, -2.5e-7 ]' in text


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", run("coop", {"test": 3}))
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace("promptmix-bench-result-2", "promptmix-bench-result-1"))
    with pytest.raises(CheckpointError, match="not a whole result"):
        read_bench_result(tmp_path / "result.json")


def test_a_cpu_has_no_memory_of_its_own() -> None:
    cpu = torch.device("cpu")
    reset_peak_memory()
    assert peak_memory_bytes() >= 0
    assert (peak_device_memory_bytes(cpu), device_name(cpu)) == (None, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpu_tells_its_peak_and_its_name() -> None:
    gpu = torch.device("cuda")
    reset_peak_memory()
    before = peak_device_memory_bytes(gpu)
    held = torch.zeros(2**20, device=gpu)
    del held
    assert before is not None
    assert peak_device_memory_bytes(gpu) == before + 4 * 2**20
    assert device_name(gpu) not in ("", "cuda")
