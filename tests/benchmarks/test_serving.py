"""The benchmark of the server, from end to end at tiny sizes, and what it calls a wrong answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import serving, serving_answers
from benchmarks.__main__ import write_page
from benchmarks.serving_clients import Answer


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is resident")
def test_the_page_has_a_section_for_the_server(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SIZE": (64, 48),
        "SMALL": (48, 32),
        "CLIENTS": (1, 3),
        "NUM_CLASSES": 3,
        "ROUNDS": 1,
        "PICTURES": {"bundled": 8, serving.RANDOM: 4},
        "FEW": 10,
        "MANY": 20,
    }.items():
        monkeypatch.setattr(serving, name, value)
    monkeypatch.setattr(serving_answers, "SECONDS", 1.0)
    # One tower is enough to see that all is measured.
    monkeypatch.setattr(serving, "_speed_of_random", lambda folder, pictures: {})

    results = json.loads((repo_root / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    results["serving"] = json.loads(json.dumps(serving.measure_serving()))
    del results["serving"]["towers"][serving.RANDOM]
    write_page(results, tmp_path)

    found = results["serving"]
    loads = found["towers"]["bundled"]["clients"]
    assert {clients: (load["pictures"], load["lost"]) for clients, load in loads.items()} == {"1": (2, 0), "3": (8, 0)}
    assert all(0 < load["seconds"]["p50"] <= load["seconds"]["p99"] for load in loads.values())
    assert found["changes"]["lost"] == found["changes"]["wrong"] == found["memory"]["lost"] == 0
    assert found["changes"]["versions"] > 1
    assert 2**25 < found["memory"]["few_bytes"] < 2**33
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "## The server" in page
    assert page.count("| bundled | 3 |") == 1


def answer(version: str, **probabilities: float) -> Answer:
    top = [{"class": name, "probability": value} for name, value in probabilities.items()]
    body = json.dumps({"version": version, "predictions": [{"top": top}]}).encode()
    return Answer(asked=0, status=200, body=body, seconds=0.1)


def test_an_answer_is_wrong_that_is_not_its_versions() -> None:
    expected = {"1": [{"cat": 0.75, "dog": 0.25}], "2": [{"cat": 0.5, "dog": 0.25, "cow": 0.25}]}
    right = [answer("1", cat=0.75, dog=0.25), answer("2", cow=0.25, cat=0.5, dog=0.25 + 5e-7)]
    assert serving_answers.wrong_answers(right, expected) == (0, pytest.approx(5e-7))
    wrong = [
        answer("2", cat=0.75, dog=0.25),
        answer("1", cat=0.75),
        answer("1", cat=0.76, dog=0.24),
        answer("3", cat=0.75, dog=0.25),
    ]
    assert serving_answers.wrong_answers([*right, *wrong], expected)[0] == 4
