"""The benchmarks of the training step and of growth, from end to end at tiny sizes: what they find, and the page they become."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmarks import bulk, extraction, growth, measure, training_step
from benchmarks.__main__ import write_page
from benchmarks.mixture_step import BUNDLED, Size
from benchmarks.step_profile import profile_step
from PIL import Image

import promptmix

TINY = Size(experts=2, classes=3, pictures=4, tower=BUNDLED)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes of their own do is done here, and the products that are timed are small."""
    answers = {"benchmarks.training_step": training_step.answer, "benchmarks.growth": growth.answer}

    def here(module: str, arguments: Mapping[str, Any]) -> Any:
        return json.loads(json.dumps(answers[module](json.loads(json.dumps(arguments)))))

    for module in (training_step, growth):
        monkeypatch.setattr(module, "in_own_process", here)
    monkeypatch.setattr(training_step, "matrix_product_rate", functools.partial(measure.matrix_product_rate, 32, 1))
    monkeypatch.setattr(training_step, "GROWTH_CLASSES", {"cpu": (3, 6)})
    monkeypatch.setattr(training_step, "MOST_ROWS_BY_TURNS", 10)
    monkeypatch.setattr(training_step, "profile_step", functools.partial(profile_step, steps=1))
    monkeypatch.setattr(growth, "MOST_REPEATS", 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(training_step.torch.cuda.is_available(), reason="the figures are those of the GPU then")
def test_the_page_has_a_section_for_the_step_and_for_growth(repo_root: Path, tmp_path: Path) -> None:
    results = json.loads((repo_root / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    names = ("ours", "textbook", "ours, bf16 tower")
    large = Size(experts=2, classes=20, pictures=4, tower=BUNDLED)
    results["training_step"] = training_step.measure_training_step(1, (TINY, large), names)
    axes = {"classes": (2, 4), "context": (1, 3)}
    results["growth"] = growth.measure_growth(TINY, axes, dict.fromkeys(axes, (BUNDLED,)), (10, 100))
    write_page(json.loads(json.dumps(results)), tmp_path)

    small_case, large_case = results["training_step"]["cases"]
    assert set(small_case["ways"]) == set(large_case["ways"]) == set(names)
    assert not small_case["ways"]["textbook"]["computed"] and large_case["ways"]["textbook"]["computed"]
    assert sum(results["training_step"]["profile"]["shares"].values()) == pytest.approx(1)
    assert results["growth"]["step"]["context"][BUNDLED]["at"] == [1, 3]
    assert all(value > 0 for value in results["growth"]["prediction"]["promptmix"]["seconds"])
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "## The training step" in page and "## How time and memory grow" in page
    [row] = [line for line in page.splitlines() if line.startswith("| 2 x 20 |") and "computed" in line]
    assert row.count(" (computed) |") == 2
    with Image.open(tmp_path / growth.IMAGE) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(("limit", "value"), [("MOST_ROWS_BY_TURNS", 0), ("free_memory_bytes", lambda device: 100)])
def test_what_does_not_fit_is_computed_from_what_each_further_sequence_added(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: Any
) -> None:
    def linear(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
        rows = Size(**arguments["size"]).rows
        return {
            "computed": False,
            "seconds": [9.0, 2 + 0.5 * rows],
            "memory_bytes": 100 + 10 * rows,
            "process_bytes": 10**9,
            "flops": 6 * rows,
            "flops_per_second": 3.0,
            "chunks": 1,
            "rows_computed_twice": 0,
        }

    monkeypatch.setattr(training_step, "in_own_process", linear)
    monkeypatch.setattr(training_step, "profile_step", lambda step: {})
    monkeypatch.setattr(training_step, limit, value)
    monkeypatch.setattr(training_step, "GROWTH_CLASSES", {"cpu": (1, 2), "cuda": (1, 2)})
    results = training_step.measure_training_step(1, (TINY, Size(experts=10, classes=30, tower=BUNDLED)))
    textbook, ours = (results["cases"][1]["ways"][name] for name in ("textbook", "ours"))
    assert textbook["computed"]
    assert textbook["median_seconds"] == 2 + 0.5 * 300
    assert textbook["memory_bytes"] == 100 + 10 * 300
    assert ours["over_textbook"] == pytest.approx(152 / ours["median_seconds"])
    assert ours["share_of_floor"] == pytest.approx(6 * 300 / 3.0 / ours["median_seconds"])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    places = [1, 3, 10, 30, 100]
    assert growth.fitted_exponent(places, [7 * place**exponent for place in places]) == pytest.approx(exponent, abs=1e-9)


def test_the_exponent_is_that_of_the_upper_half() -> None:
    places = [1, 2, 4, 8, 16, 32]
    assert growth.fitted_exponent(places, [5, 5, 5, 8, 16, 32]) == pytest.approx(1)


@pytest.mark.parametrize(("places", "values"), [([1], [1]), ([1, 2], [1]), ([1, 2], [0, 1]), ([0, 2], [1, 1])])
def test_what_has_no_exponent_is_refused(places: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"exponent needs two|no logarithm"):
        growth.fitted_exponent(places, values)


def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    point = measure.in_own_process("benchmarks.growth", {"prediction": 10})
    assert set(point) == {"zero-shot", "mocoop", "promptmix", "promptmix, whole answer"}
    assert all(seconds > 0 for seconds in point.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is resident")
def test_memory_is_measured_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(promptmix.__file__).parent.parent))  # and not where the benchmarks lie
    for module in (bulk, extraction):
        monkeypatch.setattr(module, "FEW", 10)
        monkeypatch.setattr(module, "MANY", 20)
    for found in (bulk._memory(), extraction._memory_of("without cache")):
        assert found is not None
        assert set(found) == {"few_bytes", "many_bytes", "pictures_per_second"}
        assert 2**25 < found["few_bytes"] < 2**33
