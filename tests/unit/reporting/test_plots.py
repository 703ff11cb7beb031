"""Plots of one model or a demo: they show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.reporting.made_plots import Drawn, bars, grid, heat_map, overflow

from promptmix.data.pictograms import draw
from promptmix.reporting import plots
from promptmix.reporting.aggregate import spread


def test_a_grid_tells_right_from_wrong_in_words(tmp_path: Path, drawn: Drawn) -> None:
    grid(tmp_path / "a.png")
    figure, lines = drawn[0]
    assert [axes.get_xlabel() for axes in figure.axes] == ["✓ anchor\n90 %", "✗ skull\n40 %, but is\ncloud", "skull\n30 %"]
    assert {"three pictures", "1 of 2 right"} <= set(lines)
    right, wrong, _ = figure.axes
    assert wrong.spines["left"].get_linewidth() > 2 * right.spines["left"].get_linewidth()


def test_a_grid_shows_the_pictures_it_was_given_and_leaves_them_alone(tmp_path: Path, drawn: Drawn) -> None:
    small, large = draw("anchor", "photo", 1), Image.new("RGB", (3000, 1000), (0, 200, 0))
    plots.picture_grid(tmp_path / "a.png", [small, large], [None, None], ["a", "b"], [0.5, 0.5], "two", columns=1)
    figure, _ = drawn[0]
    assert large.size == (3000, 1000)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], np.asarray(small))
    assert shown[1].shape[1] == 3 * shown[1].shape[0] <= 400  # a photo is made as small as its tile needs
    assert (shown[1] == (0, 200, 0)).all()
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[0] > tops[1]


def test_bars_are_as_long_as_their_values_and_what_is_missing_is_said(tmp_path: Path, drawn: Drawn) -> None:
    bars(tmp_path / "a.png")
    figure, lines = drawn[0]
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([55, 70, 0, 20])
    assert {"55.0 ± 7.1", "70.0", "20.0", "n/a", "accuracy in %; lines: one standard deviation either way"} <= set(lines)
    [error] = [line for line in axes.collections if len(line.get_paths()) == 1]
    ends = error.get_paths()[0].vertices[:, 0]
    deviation = 100 * np.std([0.5, 0.6], ddof=1)
    assert sorted(ends) == pytest.approx([55 - deviation, 55 + deviation])


def test_without_repeats_no_deviation_is_spoken_of(tmp_path: Path, drawn: Drawn) -> None:
    plots.method_bars(tmp_path / "a.png", ["a"], {"base": [spread([1.0])]}, "one")
    assert "accuracy in %" in drawn[0][1]
    assert list(drawn[0][0].axes[0].collections) == []


def test_a_heat_map_names_every_number(tmp_path: Path, drawn: Drawn) -> None:
    heat_map(tmp_path / "a.png")
    figure, lines = drawn[0]
    written = [(text.get_position(), text.get_text()) for text in figure.axes[0].texts]
    assert written == [((0, 0), "0.25"), ((1, 0), "0.75"), ((0, 1), "0.50"), ((1, 1), "0.50")]
    assert {"chalk", "neon", "a {}.", "many {}.", "style", "mean router weight"} <= set(lines)


def test_weights_that_are_all_nothing_can_be_drawn(tmp_path: Path) -> None:
    plots.router_heat_map(tmp_path / "a.png", np.zeros((1, 1)), ["a"], ["b"], "t")


def test_marks_stand_at_their_values_and_hide_none(tmp_path: Path, drawn: Drawn) -> None:
    methods = {f"method {number}": [0.5, 1.0] for number in range(10)}
    plots.accuracy_by_group(tmp_path / "a.png", ["chalk", "neon"], methods, "t", group_label="ground")
    figure, lines = drawn[0]
    marks = figure.axes[0].lines
    assert len(marks) == 10
    assert all(list(mark.get_xdata()) == [50, 100] for mark in marks)
    # Equal values: every mark is at least its own size away from every other, and no two look the same.
    heights = sorted(figure.axes[0].transData.transform([(50, height) for mark in marks for height in mark.get_ydata()])[:, 1])
    assert min(np.diff(heights)) * 72 / figure.dpi >= 6
    assert len({(mark.get_color(), mark.get_marker()) for mark in marks}) == 10
    assert {"ground", "chalk", "neon", "accuracy in %", *methods} <= set(lines)


def test_long_names_and_many_groups_still_fit(tmp_path: Path, drawn: Drawn) -> None:
    names = [f"a very long name of a WHOLE GROUP of pictures, number {number}" for number in range(15)]
    title = "accuracy on everything " * 12
    pictures = [draw("anchor", "photo", 1)] * 15
    many = {f"a method with an overly long name, the {number}th": [0.5] * 15 for number in range(6)}
    plots.accuracy_by_group(tmp_path / "a.png", names, many, title)
    plots.router_heat_map(tmp_path / "b.png", np.full((15, 15), 1 / 15), names, names, title)
    plots.picture_grid(tmp_path / "c.png", pictures, names, names[::-1], [1.0] * 15, title)
    plots.method_bars(tmp_path / "d.png", names, {name: [spread([1.0, 0.0])] * 15 for name in names[:3]}, title)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) < 2500
    for figure, lines in drawn:
        assert overflow(figure) == []
        assert any(line.startswith("a very") and "…" in line and line.endswith(" 12") for line in lines)
