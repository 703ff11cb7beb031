"""Plots: files that open, that show what they were given, and that are whole or not there."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from promptmix.data.pictograms import draw
from promptmix.errors import DataError
from promptmix.reporting import plots
from promptmix.reporting.aggregate import Spread, spread


def grid(path: Path, probability: float = 0.9) -> None:
    plots.picture_grid(
        path,
        [draw("anchor", "photo", 1), draw("cloud", "neon", 2), draw("skull", "stamp", 3)],
        ["anchor", "cloud", None],
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


def curves(path: Path, share: float = 0.5) -> None:
    pets: dict[str, dict[int | None, Spread]] = {
        "zero-shot": {None: spread([0.4, 0.4])},
        "CoOp": {1: spread([share, 0.6]), 4: spread([0.7, 0.8]), 16: spread([0.9])},
    }
    plots.few_shot_curves(path, {"pets": pets, "food": {"KgCoOp": {2: spread([0.3, 0.4])}, **pets}}, "by shots")


def scatter(path: Path, share: float = 0.5) -> None:
    points = {"CoOp": (spread([share, 0.6]), spread([0.4])), "zero-shot": (spread([0.4]), spread([0.6]))}
    plots.base_new_scatter(path, {"pets": points}, "base and new")


def changes(path: Path, share: float = 0.5) -> None:
    plots.class_changes(path, {"cat": (0.5, 0.6), "dog": (share, 0.4), "fox": (0.1, 0.1)}, "zero-shot", "CoOp", "by class")


def reliability(path: Path, share: float = 0.5) -> None:
    bins = [(0, 0.0, 0.0), (3, 0.5, share), (5, 0.9, 1.0)]
    plots.reliability_diagrams(path, {"CoOp": bins, "KgCoOp": bins[::-1]}, {"CoOp": 0.1, "KgCoOp": 0.25}, "calibration")


def growth(path: Path, seconds: float = 0.5) -> None:
    steps = plots.GrowthPanel(
        title="seconds by classes",
        place="classes",
        value="seconds",
        curves={"small": ([10, 100], [0.1, seconds]), "large": ([1], [2])},
    )
    memory = plots.GrowthPanel(
        title="memory by experts", place="experts", value="MB", curves={"small": ([1, 2, 4], [10, 20, 41])}
    )
    plots.growth_curves(path, [steps, memory], "growth")


EACH = pytest.mark.parametrize("plot", [grid, bars, heat_map, by_group, curves, scatter, changes, reliability, growth])
Drawn = list[tuple[Figure, list[str]]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Every figure that is written, with all that can be read on it, line by line; each is written all the same."""
    figures: Drawn = []
    savefig = Figure.savefig

    def remember(self: Figure, path: Path, **options: Any) -> None:
        savefig(self, path, **options)
        texts = [text for text in self.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]
        figures.append((self, [line for text in texts for line in text.get_text().split("\n")]))

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def overflow(figure: Figure) -> list[str]:
    """Texts that are not wholly on the figure, which would be cut off."""
    page = figure.bbox
    names = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_visible() or not text.get_text():
            continue
        box = text.get_window_extent()
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1:
            names.append(text.get_text())
    return names


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
    plots.few_shot_curves(tmp_path / "a.png", {"pets": every}, "t")
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


def test_a_contender_looks_the_same_in_all_plots_that_are_given_the_same_order(tmp_path: Path, drawn: Drawn) -> None:
    pair = (spread([0.5]), spread([0.6]))
    names = ["linear probe", "CoOp", "KgCoOp"]
    plots.few_shot_curves(tmp_path / "a.png", {"pets": {name: {1: spread([0.5])} for name in names}}, "t", names)
    plots.base_new_scatter(tmp_path / "b.png", {"pets": {"KgCoOp": pair}}, "t", names)
    plots.accuracy_by_group(tmp_path / "c.png", ["chalk"], {"KgCoOp": [0.5]}, "t", "style", names)
    looks = [[(line.get_color(), line.get_marker()) for line in figure.axes[0].lines] for figure, _ in drawn]
    assert looks[0][2] == looks[1][0] == looks[2][0]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=15).map(sorted))
def test_places_are_apart_in_order_and_no_farther_moved_than_needed(wanted: list[float]) -> None:
    places = plots._apart(wanted, 0.5, 0.0, 10.0)
    assert all(after - before >= 0.5 - 1e-9 for before, after in itertools.pairwise(places))
    assert min(places) >= 0 and max(places) <= 10 + 1e-9
    if all(after - before >= 0.5 for before, after in itertools.pairwise(wanted)):
        assert places == pytest.approx(wanted)


def test_what_touches_is_moved_apart_around_its_middle() -> None:
    assert plots._apart([1.0, 5.0, 5.0, 9.0], 1.0, 0.0, 10.0) == pytest.approx([1.0, 4.5, 5.5, 9.0])
    assert plots._apart([9.9, 9.9], 1.0, 0.0, 10.0) == pytest.approx([9.0, 10.0])
    assert plots._apart([0.0, 0.0], 1.0, 0.0, 10.0) == pytest.approx([0.0, 1.0])


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
    plots.class_changes(tmp_path / "a.png", accuracies, "zero-shot", "CoOp", "t", most=10)
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
    plots.few_shot_curves(tmp_path / "a.png", {name: dict.fromkeys(names, curve) for name in names[:5]}, title)
    plots.base_new_scatter(tmp_path / "b.png", dict.fromkeys(names[:5], points), title)
    plots.class_changes(tmp_path / "c.png", dict.fromkeys(names, (1.0, 0.0)), names[0], names[1], title)
    plots.reliability_diagrams(tmp_path / "d.png", dict.fromkeys(names, bins), dict.fromkeys(names, 0.1), title)
    for figure, lines in drawn:
        assert overflow(figure) == []
        assert any(line.startswith("□ a very") and "…" in line for line in lines)


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
        plots.few_shot_curves(path, {}, "t")
    with pytest.raises(ValueError, match="panel 'pets': there is nothing"):
        plots.few_shot_curves(path, {"pets": {}}, "t")
    with pytest.raises(ValueError, match="curve 'CoOp': there is nothing"):
        plots.few_shot_curves(path, {"pets": {"CoOp": {}}}, "t")
    with pytest.raises(ValueError, match="panel 'pets': there is nothing"):
        plots.base_new_scatter(path, {"pets": {}}, "t")
    with pytest.raises(ValueError, match="accuracies: there is nothing"):
        plots.class_changes(path, {}, "a", "b", "t")
    with pytest.raises(ValueError, match="pictures of 'CoOp': there is nothing"):
        plots.reliability_diagrams(path, {"CoOp": [(0, 0.0, 0.0)]}, {"CoOp": 0.0}, "t")
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
        plots.class_changes(path, {"cat": (0.5, value)}, "a", "b", "t")
    with pytest.raises(ValueError, match=r"CoOp: .* is not a share"):
        plots.reliability_diagrams(path, {"CoOp": [(1, 0.5, 0.5)]}, {"CoOp": value}, "t")
    if not math.isnan(value):
        with pytest.raises(ValueError, match=r"CoOp: .* is not a share"):
            plots.few_shot_curves(path, {"pets": {"CoOp": {1: spread([value])}}}, "t")
        with pytest.raises(ValueError, match=r"pets: .* is not a share"):
            plots.base_new_scatter(path, {"pets": {"CoOp": (spread([0.5]), spread([value]))}}, "t")
        with pytest.raises(ValueError, match=r"base: .* is not a share"):
            plots.method_bars(path, ["a"], {"base": [spread([value])]}, "t")
    assert list(tmp_path.iterdir()) == []


def test_plots_need_no_display_and_touch_no_global_figure() -> None:
    code = "import sys, promptmix.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_growth_is_drawn_on_logarithmic_axes_and_refused_where_there_is_none(tmp_path: Path, drawn: Drawn) -> None:
    growth(tmp_path / "a.png")
    figure, lines = drawn[0]
    assert [axes.get_title() for axes in figure.axes] == ["seconds by classes", "memory by experts"]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert {"small", "large", "classes", "experts", "MB"} <= set(lines)
    with pytest.raises(ValueError, match="not above 0"):
        growth(tmp_path / "b.png", 0.0)
    uneven = plots.GrowthPanel(title="uneven", place="x", value="y", curves={"one": ([1, 2], [1])})
    with pytest.raises(ValueError, match="1 where 2 are needed"):
        plots.growth_curves(tmp_path / "b.png", [uneven], "growth")
    assert not (tmp_path / "b.png").exists()
