"""What all plots share: files that are whole or not there, names that can be read, looks, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tests.unit.reporting.made_plots import (
    Drawn,
    bars,
    by_group,
    changes,
    curves,
    grid,
    growth,
    heat_map,
    overflow,
    reliability,
    scatter,
)

from promptmix.data.pictograms import draw
from promptmix.errors import DataError
from promptmix.reporting import plots, protocol_plots
from promptmix.reporting.aggregate import spread

EACH = pytest.mark.parametrize("plot", [grid, bars, heat_map, by_group, curves, scatter, changes, reliability, growth])


@EACH
def test_a_plot_is_a_picture_that_depends_on_its_numbers_alone(plot: Callable[..., None], tmp_path: Path) -> None:
    plot(tmp_path / "a.png")
    # A person's own settings are neither heeded nor changed.
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "text.usetex": True, "savefig.dpi": 30}):
        plot(tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 20
    plot(tmp_path / "c.png", 0.75)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 250 and max(picture.size) < 1500
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

    size = matplotlib.rcParams["font.size"]
    monkeypatch.setattr(Figure, "savefig", fail)
    with matplotlib.rc_context({"font.size": size + 1}):
        with pytest.raises(RuntimeError, match="broken"):
            plot(tmp_path / "a.png")
        assert matplotlib.rcParams["font.size"] == size + 1
    assert list(tmp_path.iterdir()) == []


@EACH
def test_a_file_that_cannot_be_written_is_told_as_such(plot: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DataError, match="cannot write"):
        plot(tmp_path / "file" / "a.png")


@EACH
def test_all_that_is_written_is_large_enough_and_on_the_page(plot: Callable[..., None], tmp_path: Path, drawn: Drawn) -> None:
    plot(tmp_path / "a.png")
    [(figure, _)] = drawn
    assert overflow(figure) == []
    assert all(text.get_fontsize() >= 8 for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text())


def test_a_contender_looks_the_same_in_all_plots_that_are_given_the_same_order(tmp_path: Path, drawn: Drawn) -> None:
    pair = (spread([0.5]), spread([0.6]))
    names = ["linear probe", "CoOp", "KgCoOp"]
    protocol_plots.few_shot_curves(tmp_path / "a.png", {"pets": {name: {1: spread([0.5])} for name in names}}, "t", names)
    protocol_plots.base_new_scatter(tmp_path / "b.png", {"pets": {"KgCoOp": pair}}, "t", names)
    plots.accuracy_by_group(tmp_path / "c.png", ["chalk"], {"KgCoOp": [0.5]}, "t", "style", names)
    looks = [[(line.get_color(), line.get_marker()) for line in figure.axes[0].lines] for figure, _ in drawn]
    assert looks[0][2] == looks[1][0] == looks[2][0]


def test_names_are_shown_as_they_are_written(tmp_path: Path, drawn: Drawn) -> None:
    """No formula between two dollars; no warning for letters the font does not have; nothing breaks a line."""
    groups = [r"$\no formula$", "狐 fox", "two\nlines"]
    plots.accuracy_by_group(tmp_path / "a.png", groups, {"group_names": [0.0, 0.5, 1.0], "$x_2$": [1.0] * 3}, "a $ and 狐")
    assert {r"$\no formula$", "□ fox", "two lines", "group_names", "$x_2$", "a $ and □"} <= set(drawn[0][1])


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    picture, path = draw("anchor", "photo", 1), tmp_path / "a.png"
    with pytest.raises(ValueError, match="predictions: there is nothing"):
        plots.picture_grid(path, [picture], ["anchor"], [], [0.5], "t")
    with pytest.raises(ValueError, match="truths: 2 where 1"):
        plots.picture_grid(path, [picture], ["anchor", None], ["a"], [0.5], "t")
    with pytest.raises(ValueError, match="pictures: there is nothing"):
        plots.picture_grid(path, [], [], [], [], "t")
    with pytest.raises(ValueError, match="0 columns"):
        plots.picture_grid(path, [picture], [None], ["a"], [0.5], "t", columns=0)
    with pytest.raises(ValueError, match="'base': 1 where 2"):
        plots.method_bars(path, ["a", "b"], {"base": [None]}, "t")
    with pytest.raises(ValueError, match="measures"):
        plots.method_bars(path, ["a"], {}, "t")
    with pytest.raises(ValueError, match="row_names: 2 where 1"):
        plots.router_heat_map(path, np.ones((1, 2)), ["a", "b"], ["a", "b"], "t")
    with pytest.raises(ValueError, match="expert_names: 1 where 2"):
        plots.router_heat_map(path, np.ones((1, 2)), ["a"], ["b"], "t")
    with pytest.raises(ValueError, match="there is nothing"):
        plots.router_heat_map(path, np.ones((0, 2)), [], ["a", "b"], "t")
    with pytest.raises(ValueError, match="'CoOp': 2 where 1"):
        plots.accuracy_by_group(path, ["a"], {"CoOp": [0.1, 0.2]}, "t")
    with pytest.raises(ValueError, match="accuracies"):
        plots.accuracy_by_group(path, ["a"], {}, "t")
    with pytest.raises(ValueError, match="panels: there is nothing"):
        protocol_plots.few_shot_curves(path, {}, "t")
    with pytest.raises(ValueError, match="panel 'pets': there is nothing"):
        protocol_plots.few_shot_curves(path, {"pets": {}}, "t")
    with pytest.raises(ValueError, match="curve 'CoOp': there is nothing"):
        protocol_plots.few_shot_curves(path, {"pets": {"CoOp": {}}}, "t")
    with pytest.raises(ValueError, match="panel 'pets': there is nothing"):
        protocol_plots.base_new_scatter(path, {"pets": {}}, "t")
    with pytest.raises(ValueError, match="accuracies: there is nothing"):
        protocol_plots.class_changes(path, {}, "a", "b", "t")
    with pytest.raises(ValueError, match="pictures of 'CoOp': there is nothing"):
        protocol_plots.reliability_diagrams(path, {"CoOp": [(0, 0.0, 0.0)]}, {"CoOp": 0.0}, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-0.1, 56.5, math.nan])
def test_what_is_no_share_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match=r"probabilities: .* is not a share"):
        plots.picture_grid(path, [draw("anchor", "photo", 1)], [None], ["a"], [value], "t")
    with pytest.raises(ValueError, match=r"CoOp: .* is not a share"):
        plots.accuracy_by_group(path, ["a"], {"CoOp": [value]}, "t")
    with pytest.raises(ValueError, match=r"weights: .* is not a share"):
        plots.router_heat_map(path, np.full((1, 1), value), ["a"], ["b"], "t")
    with pytest.raises(ValueError, match=r"cat: .* is not a share"):
        protocol_plots.class_changes(path, {"cat": (0.5, value)}, "a", "b", "t")
    with pytest.raises(ValueError, match=r"CoOp: .* is not a share"):
        protocol_plots.reliability_diagrams(path, {"CoOp": [(1, 0.5, 0.5)]}, {"CoOp": value}, "t")
    if not math.isnan(value):
        with pytest.raises(ValueError, match=r"CoOp: .* is not a share"):
            protocol_plots.few_shot_curves(path, {"pets": {"CoOp": {1: spread([value])}}}, "t")
        with pytest.raises(ValueError, match=r"pets: .* is not a share"):
            protocol_plots.base_new_scatter(path, {"pets": {"CoOp": (spread([0.5]), spread([value]))}}, "t")
        with pytest.raises(ValueError, match=r"base: .* is not a share"):
            plots.method_bars(path, ["a"], {"base": [spread([value])]}, "t")
    assert list(tmp_path.iterdir()) == []


def test_plots_need_no_display_and_touch_no_global_figure() -> None:
    code = (
        "import sys, promptmix.reporting.plots, promptmix.reporting.protocol_plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
