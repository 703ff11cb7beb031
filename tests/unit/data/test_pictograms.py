from __future__ import annotations

import numpy as np
import pytest

from promptmix.data import pictograms
from promptmix.data.records import check_class_names


@pytest.mark.parametrize("style", pictograms.ALL_STYLES)
def test_every_style_draws_a_picture_that_shows_something(style: str) -> None:
    image = pictograms.draw("anchor", style, seed=0)
    assert image.mode == "RGB"
    assert image.size == (pictograms.IMAGE_SIZE, pictograms.IMAGE_SIZE)
    assert np.asarray(image).std() > 3


def test_a_picture_is_a_function_of_class_style_and_seed() -> None:
    def draw(class_name: str = "anchor", style: str = "photo", seed: int = 0) -> bytes:
        return pictograms.draw(class_name, style, seed).tobytes()

    first = draw()
    assert draw() == first
    assert len({first, draw(class_name="snowflake"), draw(style="sketch"), draw(seed=1)}) == 4


def test_the_order_of_drawing_does_not_matter() -> None:
    alone = pictograms.draw("heart", "neon", 5).tobytes()
    pictograms.draw("umbrella", "neon", 5)
    assert pictograms.draw("heart", "neon", 5).tobytes() == alone


def test_every_class_has_a_glyph_of_its_own() -> None:
    # A font draws one and the same box for each character that it lacks.
    drawn = {pictograms.draw(name, "stamp", 0).tobytes() for name in pictograms.CLASS_NAMES}
    assert len(drawn) == len(pictograms.CLASS_NAMES)
    masks = {pictograms._glyph(pictograms._CODE_POINTS[name]).tobytes() for name in pictograms.CLASS_NAMES}
    assert len(masks) == len(pictograms.CLASS_NAMES)


def test_class_names_are_fit_for_prompts() -> None:
    assert check_class_names(pictograms.CLASS_NAMES) == pictograms.CLASS_NAMES


def test_unseen_styles_are_kept_apart_and_every_style_has_templates() -> None:
    assert not set(pictograms.PRETRAINING_STYLES) & set(pictograms.UNSEEN_STYLES)
    assert set(pictograms.PRETRAINING_STYLES) | set(pictograms.UNSEEN_STYLES) == set(pictograms.ALL_STYLES)
    for style in pictograms.ALL_STYLES:
        assert all(template.count("{}") == 1 for template in pictograms.STYLE_TEMPLATES[style])


def test_sets_come_class_by_class_and_differ_by_seed() -> None:
    names, styles = ("heart", "anchor"), ("photo", "dark")
    drawn = pictograms.draw_set(names, styles, 2, seed=0)
    assert [(one.class_name, one.style) for one in drawn] == [
        (name, style) for name in names for style in styles for _ in range(2)
    ]
    everything = [one.image.tobytes() for one in drawn + pictograms.draw_set(names, styles, 2, seed=1)]
    assert len(set(everything)) == len(everything)


def test_unknown_classes_and_styles_are_named() -> None:
    with pytest.raises(ValueError, match="no pictogram is called 'okapi'"):
        pictograms.draw("okapi", "photo", 0)
    with pytest.raises(ValueError, match="no style is called 'cubist'"):
        pictograms.draw("anchor", "cubist", 0)
