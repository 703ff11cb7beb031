"""The command line called in this process: as quick as a function, with everything that it prints and its exit code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from promptmix.data.pictograms import draw_set


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def fails(self, code: int, *words: str) -> None:
        """One line on stderr with these words, and nothing of Python's."""
        assert self.code == code, self
        assert self.err.startswith("promptmix: "), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err, self
        for word in words:
            assert word in self.err, self

    def works(self) -> None:
        assert self.code == 0, self
        assert self.err == "", self


Promptmix = Callable[..., Done]


@pytest.fixture(scope="session")
def promptmix() -> Promptmix:
    def call(*arguments: str | Path) -> Done:
        from promptmix.cli.main import run

        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)  # as Python's own
        with (
            mock.patch("sys.argv", ["promptmix", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run()
        printed = [stream.buffer.getvalue().decode() for stream in (out, err) if isinstance(stream.buffer, io.BytesIO)]
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *printed)

    return call


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn pictures of each of three classes. Copy it before changing it."""
    root = tmp_path_factory.mktemp("photos")
    for number, drawn in enumerate(draw_set(("anchor", "cat", "skull"), ("stamp", "neon"), 4, 1)):
        folder = root / drawn.class_name
        folder.mkdir(exist_ok=True)
        drawn.image.save(folder / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def trained(promptmix: Promptmix, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the mixture on these pictures. Copy it before changing it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    promptmix("train", photos, "--out", out, "--shots", "2", "--epochs", "1").works()
    return out
