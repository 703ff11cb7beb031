"""Growth curves: on logarithmic axes, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.reporting.made_plots import Drawn, growth

from promptmix.reporting import growth_plots


def test_growth_is_drawn_on_logarithmic_axes_and_refused_where_there_is_none(tmp_path: Path, drawn: Drawn) -> None:
    growth(tmp_path / "a.png")
    figure, lines = drawn[0]
    assert [axes.get_title() for axes in figure.axes] == ["seconds by classes", "memory by experts"]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert {"small", "large", "classes", "experts", "MB"} <= set(lines)
    with pytest.raises(ValueError, match="not above 0"):
        growth(tmp_path / "b.png", 0.0)
    uneven = growth_plots.GrowthPanel(title="uneven", place="x", value="y", curves={"one": ([1, 2], [1])})
    with pytest.raises(ValueError, match="1 where 2 are needed"):
        growth_plots.growth_curves(tmp_path / "b.png", [uneven], "growth")
    assert not (tmp_path / "b.png").exists()
