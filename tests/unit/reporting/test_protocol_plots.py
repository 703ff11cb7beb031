"""Plots of the runs of a protocol: they show what they were given."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from tests.unit.reporting.made_plots import Drawn, changes, curves, overflow, reliability, scatter

from promptmix.reporting import protocol_plots
from promptmix.reporting.aggregate import Spread, spread


def test_curves_pass_through_their_means_and_end_at_their_names(tmp_path: Path, drawn: Drawn) -> None:
    curves(tmp_path / "a.png")
    figure, lines = drawn[0]
    pets, food = figure.axes
    assert [axes.get_title() for axes in (pets, food)] == ["pets", "food"]
    level, coop = pets.lines
    assert list(level.get_ydata()) == pytest.approx([40, 40])
    assert tuple(level.get_xdata()) == pytest.approx(pets.get_xlim())  # zero-shot is the same for any number of shots
    assert list(coop.get_xdata()) == [0, 2, 4]  # powers of two are as far from each other
    assert list(coop.get_ydata()) == pytest.approx([55, 75, 90])
    band = pets.collections[1].get_paths()[0].vertices
    deviation = 100 * np.std([0.5, 0.6], ddof=1)
    assert sorted({round(y, 6) for x, y in band if x == 0}) == pytest.approx([55 - deviation, 55 + deviation])
    # One number of shots alone has no band, but a line for its deviation.
    assert [line.get_marker() for line in food.lines if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
    assert {"zero-shot 40.0", "CoOp 90.0", "KgCoOp 35.0", "1", "2", "4", "16", "shots of each class"} <= set(lines)


def test_many_contenders_have_names_that_do_not_touch_and_looks_of_their_own(tmp_path: Path, drawn: Drawn) -> None:
    """Seventeen curves that end within two points of each other, and two more far below."""
    every: dict[str, dict[int | None, Spread]] = {
        f"contender {number}": {1: spread([0.5]), 16: spread([0.7 + 0.001 * number])} for number in range(17)
    }
    every |= {"low": {16: spread([0.05])}, "lower": {16: spread([0.04])}}
    protocol_plots.few_shot_curves(tmp_path / "a.png", {"pets": every}, "t")
    figure, _ = drawn[0]
    [axes] = figure.axes
    # Of the words alone: that of an annotation as a whole has its line too.
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 19
    assert all(above.y0 >= below.y1 - 2 for below, above in itertools.pairwise(boxes))
    # From top to bottom as the curves end.
    names = [text.get_text() for text in sorted(axes.texts, key=lambda text: -Text.get_window_extent(text).y0)]
    assert names[:2] + names[-2:] == ["contender 16 71.6", "contender 15 71.5", "low 5.0", "lower 4.0"]
    assert len({line.get_color() for line in axes.lines[:17]}) == 17
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines[:19]}) == 19
    assert overflow(figure) == []


@given(st.lists(st.floats(0, 10), min_size=1, max_size=15).map(sorted))
def test_places_are_apart_in_order_and_no_farther_moved_than_needed(wanted: list[float]) -> None:
    places = protocol_plots._apart(wanted, 0.5, 0.0, 10.0)
    assert all(after - before >= 0.5 - 1e-9 for before, after in itertools.pairwise(places))
    assert min(places) >= 0 and max(places) <= 10 + 1e-9
    if all(after - before >= 0.5 for before, after in itertools.pairwise(wanted)):
        assert places == pytest.approx(wanted)


def test_what_touches_is_moved_apart_around_its_middle() -> None:
    assert protocol_plots._apart([1.0, 5.0, 5.0, 9.0], 1.0, 0.0, 10.0) == pytest.approx([1.0, 4.5, 5.5, 9.0])
    assert protocol_plots._apart([9.9, 9.9], 1.0, 0.0, 10.0) == pytest.approx([9.0, 10.0])
    assert protocol_plots._apart([0.0, 0.0], 1.0, 0.0, 10.0) == pytest.approx([0.0, 1.0])


def test_a_scatter_has_base_across_and_new_upwards_and_lists_by_harmonic_mean(tmp_path: Path, drawn: Drawn) -> None:
    scatter(tmp_path / "a.png")
    [axes] = drawn[0][0].axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["48.0  zero-shot", "46.3  CoOp"]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(points) == [pytest.approx((40, 60)), pytest.approx((55, 40))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("base accuracy in %", "new accuracy in %")


def test_along_a_grey_line_the_harmonic_mean_is_what_it_says(tmp_path: Path, drawn: Drawn) -> None:
    scatter(tmp_path / "a.png")
    [axes] = drawn[0][0].axes
    grey = [line for line in axes.lines if line.get_color() == "#bbbbbb"]
    assert len(grey) == len(axes.texts) > 2
    for line, label in zip(grey, axes.texts, strict=True):
        base, new = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        np.testing.assert_allclose(2 * base * new / (base + new), float(label.get_text()), rtol=1e-9)


def test_classes_are_ranked_by_what_they_gain(tmp_path: Path, drawn: Drawn) -> None:
    changes(tmp_path / "a.png")
    figure, lines = drawn[0]
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "fox", "dog"]
    assert [text.get_text() for text in axes.texts] == ["+10.0", "+0.0", "-10.0"]
    assert {"zero-shot", "higher with CoOp", "lower with CoOp"} <= set(lines)


def test_of_many_classes_the_largest_gains_and_losses_are_shown(tmp_path: Path, drawn: Drawn) -> None:
    accuracies = {f"class {number}": (0.5, number / 200) for number in range(200)}
    protocol_plots.class_changes(tmp_path / "a.png", accuracies, "zero-shot", "CoOp", "t", most=10)
    figure, lines = drawn[0]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"class {number}" for number in (199, 198, 197, 196, 195, 4, 3, 2, 1, 0)]
    assert "190 classes between these are not shown" in lines


def test_reliability_is_drawn_of_the_bins_that_have_pictures(tmp_path: Path, drawn: Drawn) -> None:
    reliability(tmp_path / "a.png")
    figure, lines = drawn[0]
    coop, kgcoop = figure.axes
    diagonal, curve = coop.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 100]
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == (pytest.approx([50, 90]), pytest.approx([50, 100]))
    assert [bar.get_height() for bar in coop.patches] == pytest.approx([0, 37.5, 62.5])
    assert {"CoOp", "error 10.0", "KgCoOp", "error 25.0"} <= set(lines)
    assert [bar.get_height() for bar in kgcoop.patches] == pytest.approx([62.5, 37.5, 0])


def test_long_names_and_many_panels_still_fit(tmp_path: Path, drawn: Drawn) -> None:
    names = [f"狐 a very long name of a CONTENDER with everything, number {number}" for number in range(17)]
    title = "measured on everything " * 12
    points = {name: (spread([0.5, 0.6]), spread([0.4 + 0.01 * number, 0.6])) for number, name in enumerate(names)}
    curve: dict[int | None, Spread] = {1: spread([0.5, 0.6]), 4: spread([0.7, 0.8])}
    bins = [(1, (number + 0.5) / 15, 0.5) for number in range(15)]
    protocol_plots.few_shot_curves(tmp_path / "a.png", {name: dict.fromkeys(names, curve) for name in names[:5]}, title)
    protocol_plots.base_new_scatter(tmp_path / "b.png", dict.fromkeys(names[:5], points), title)
    protocol_plots.class_changes(tmp_path / "c.png", dict.fromkeys(names, (1.0, 0.0)), names[0], names[1], title)
    protocol_plots.reliability_diagrams(tmp_path / "d.png", dict.fromkeys(names, bins), dict.fromkeys(names, 0.1), title)
    for figure, lines in drawn:
        assert overflow(figure) == []
        assert any(line.startswith("□ a very") and "…" in line for line in lines)
