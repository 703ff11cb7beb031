"""Predictions are printed as they come, whatever the number of pictures."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix.data.pictograms import draw_set
from promptmix.features import extract

Promptmix = Callable[..., Any]

NUMBER = 150  # three batches


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number, drawn in enumerate(draw_set(("anchor", "cat", "skull"), ("stamp",), NUMBER // 3, 5)):
        drawn.image.save(folder / f"{number:03}.png")
    return folder


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_batch_is_printed_before_the_next_but_one_is_encoded(
    promptmix: Promptmix, trained: Path, many: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    encode, printed = extract._encode, []

    def noted(*arguments: Any) -> Any:
        assert isinstance(sys.stdout, io.TextIOWrapper)
        assert isinstance(sys.stdout.buffer, io.BytesIO)
        printed.append(sys.stdout.buffer.getvalue().count(b"\n"))
        return encode(*arguments)

    monkeypatch.setattr(extract, "_encode", noted)
    done = promptmix("predict", trained, many, "--no-cache", *form)
    done.works()
    header = form == ["--csv"]
    assert printed == [header, 64 + header, 128 + header]
    lines = done.out.splitlines()
    assert len(lines) == NUMBER + header
    if form == ["--json"]:
        paths = [json.loads(line)["path"] for line in lines]
    elif header:
        paths = [row["path"] for row in csv.DictReader(lines)]
    else:
        paths = [line.partition(": ")[0] for line in lines]
    assert paths == sorted(str(path) for path in many.iterdir())


def test_bad_pictures_are_told_of_and_counted(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    for path in (first, last):
        path.write_bytes(b"no picture")
    done = promptmix("predict", trained, first, many, last)
    assert done.code == 4
    assert len(done.out.splitlines()) == NUMBER
    said = done.err.splitlines()
    assert [line.startswith("promptmix: left out ") for line in said] == [True, True, False]
    assert "first.png" in said[0] and "last.png" in said[1]
    assert f"2 of {NUMBER + 2} pictures could not be read; the others were predicted" in said[2]
    promptmix("predict", trained, first, last).fails(4, "none of the 2 pictures can be read", "first.png")


def test_names_of_files_do_not_steer_the_terminal(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    (tmp_path / "\x1b[31mred\nskull.png").write_bytes((many / "000.png").read_bytes())
    done = promptmix("predict", trained, tmp_path)
    done.works()
    assert "\x1b" not in done.out
    assert done.out.count("\n") == 1
    assert "\\x1b[31mred\\nskull.png: " in done.out
