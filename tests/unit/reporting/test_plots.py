"""Plots: files that open, that show what they were given, and that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from promptmix.data.pictograms import draw
from promptmix.reporting import plots
from promptmix.reporting.aggregate import spread


def grid(path: Path, probability: float = 0.9) -> None:
    plots.picture_grid(
        path,
        [draw("anchor", "photo", 1), draw("cat", "neon", 2), draw("skull", "stamp", 3)],
        ["anchor", "cat", None],
        ["anchor", "skull", "skull"],
        [probability, 0.4, 0.3],
        "three pictures",
    )


def bars(path: Path, share: float = 0.5) -> None:
    measures = {"base": [spread([share, 0.6]), spread([0.7])], "new": [None, spread([0.2])]}
    plots.method_bars(path, ["zero-shot", "linear probe"], measures, "two methods")


def heat_map(path: Path, weight: float = 0.25) -> None:
    plots.router_heat_map(path, np.array([[weight, 1 - weight], [0.5, 0.5]]), ["chalk", "neon"], ["a {}.", "many {}."], "weights")


def by_group(path: Path, share: float = 0.5) -> None:
    plots.accuracy_by_group(path, ["chalk", "neon"], {"CoOp": [share, 0.1], "probe": [0.9, 0.8]}, "by style")


EACH = pytest.mark.parametrize("plot", [grid, bars, heat_map, by_group])


@EACH
def test_a_plot_is_a_picture_that_depends_on_its_numbers_alone(plot: Callable[..., None], tmp_path: Path) -> None:
    plot(tmp_path / "a.png")
    plot(tmp_path / "b.png")
    plot(tmp_path / "c.png", 0.75)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 250
        colours = picture.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 20
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


@EACH
def test_a_failure_leaves_nothing_behind(plot: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Figure, path: Path, **options: Any) -> None:
        path.write_bytes(b"half a picture")
        raise RuntimeError("broken")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="broken"):
        plot(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_sequences_of_different_lengths_are_refused(tmp_path: Path) -> None:
    picture = draw("anchor", "photo", 1)
    with pytest.raises(ValueError, match="predictions"):
        plots.picture_grid(tmp_path / "a.png", [picture], ["anchor"], [], [0.5], "t")
    with pytest.raises(ValueError, match="base"):
        plots.method_bars(tmp_path / "a.png", ["a", "b"], {"base": [None]}, "t")
    with pytest.raises(ValueError, match="expert_names"):
        plots.router_heat_map(tmp_path / "a.png", np.ones((1, 2)), ["a"], ["b"], "t")
    with pytest.raises(ValueError, match="CoOp"):
        plots.accuracy_by_group(tmp_path / "a.png", ["a"], {"CoOp": [0.1, 0.2]}, "t")


def test_long_names_and_many_groups_still_fit(tmp_path: Path) -> None:
    names = [f"a very long name of a group of pictures, number {number}" for number in range(15)]
    plots.accuracy_by_group(tmp_path / "a.png", names, {f"method {number}": [0.5] * 15 for number in range(6)}, "t " * 80)
    plots.router_heat_map(tmp_path / "b.png", np.full((15, 15), 1 / 15), names, names, "t " * 80)
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) < 3000
