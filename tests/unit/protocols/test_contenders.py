"""Contenders: every file that ships can be used as it stands, what a person writes is read strictly, overrides reach those they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptmix.errors import ConfigError
from promptmix.methods.registry import METHODS, method_class
from promptmix.protocols import contenders
from promptmix.protocols.contenders import (
    Contender,
    check_contender,
    read_contender,
    read_contenders,
    recipe_sets,
    with_overrides,
)
from promptmix.protocols.make_plan import PROTOCOLS

SHIPPED = sorted(contenders._shipped().rglob("*.yaml"))


def test_there_are_sets() -> None:
    assert recipe_sets() == ["bundled", "field"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_file_that_ships_can_be_used_and_says_what_it_is(path: Path) -> None:
    contender = read_contender(path)
    assert contender.label == path.stem
    assert method_class(contender.method).name == contender.method
    for shots in (1, 16, None):
        for data_name in (*contender.by_data, ""):
            method_class(contender.method).recipe_for(shots, contender.recipe_for(data_name))
    header = path.read_text(encoding="utf-8").partition("\nmethod:")[0]
    assert header.startswith("# ")
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--methods {path.stem}" in header
    assert "Source: " in header


@pytest.mark.parametrize("recipes", ["bundled", "field"])
@pytest.mark.parametrize("protocol", ["few-shot", "base-to-new", "cross-dataset", "domain"])
def test_every_protocol_has_every_method(protocol: str, recipes: str) -> None:
    """Under its own name; what else there is has a method's name and more."""
    found = {one.label: one.method for one in read_contenders(recipes, protocol, None)}
    without: set[str] = set()  # methods that a set leaves out on purpose
    assert {label for label, method in found.items() if label == method} == METHODS.keys() - without
    assert all(label.startswith(method) for label, method in found.items())


@pytest.mark.parametrize("recipes", ["bundled", "field"])
def test_what_compare_takes_unless_told_otherwise_is_there(recipes: str) -> None:
    wanted = PROTOCOLS["compare"].contenders
    assert wanted is not None
    assert [one.label for one in read_contenders(recipes, "few-shot", wanted)] == list(wanted)


@pytest.mark.parametrize("protocol", ["few-shot", "base-to-new", "cross-dataset", "domain"])
def test_the_mixture_stands_beside_what_its_published_code_does(protocol: str) -> None:
    """The two differ in what was corrected, and the released code alone is told the names of new classes."""
    ours, released = read_contenders("field", protocol, ["mocoop", "mocoop-as-released"])
    assert ours.new_class_names is False
    assert released.new_class_names == (protocol == "base-to-new")
    assert (ours.options, released.options) == ({}, {"preset": "as_released"})
    same = {"label": "", "options": {}, "new_class_names": False}
    assert ours.model_copy(update=same) == released.model_copy(update=same)


def test_names_come_in_the_order_in_which_they_are_asked_for() -> None:
    assert [one.label for one in read_contenders("bundled", "few-shot", ["zero_shot", "coop"])] == ["zero-shot", "coop"]
    with pytest.raises(ConfigError, match="no contender 'cop' for few-shot; did you mean 'coop'"):
        read_contenders("bundled", "few-shot", ["cop"])
    with pytest.raises(ConfigError, match=r"no set of recipes 'fields'.*did you mean 'field'"):
        read_contenders("fields", "few-shot", None)
    with pytest.raises(ConfigError, match="two contenders are called 'coop'"):
        read_contenders("bundled", "few-shot", ["coop", "coop"])


def test_a_person_brings_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: coop\noptions: {context_tokens: 4}\n")
    (tmp_path / "few-shot").mkdir()
    (tmp_path / "few-shot" / "mine.yaml").write_text("label: CoOp, 8 words\nmethod: coop\noptions: {context_tokens: 8}\n")
    both = read_contenders("bundled", "few-shot", ["coop", str(tmp_path / "mine.yaml")])
    assert [one.label for one in both] == ["coop", "mine"]
    assert read_contenders(str(tmp_path), "few-shot", None)[0].label == "CoOp, 8 words"
    assert read_contenders(str(tmp_path), "domain", None)[0].options == {"context_tokens": 4}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no recipe for domain"):
        read_contenders(str(tmp_path / "empty"), "domain", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: cop", "unknown method 'cop'; did you mean 'coop'"),
        ("method: coop\noption: {}", "unknown option 'option', did you mean 'options'"),
        ("method: coop\noptions: {context: 4}", "unknown option 'context'"),
        ("method: coop\nrecipe: {rates: 1}", "unknown option 'rates', did you mean 'rate'"),
        ("method: coop\nrecipe: {rate: fast}", "rate is 'fast'"),
        ("method: coop\nby_data: {dtd: {recipe: {epochs: 0}}}", "epochs is 0"),
        ("method: coop\naugmentation: {views: -1}", "augmentation.views is -1"),
        ("method: coop\ntemplate_option: template", "template_option is 'template', which method coop does not have"),
        ("- method", "holds no options"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="mine") as raised:
        read_contender(tmp_path / "mine.yaml")
    assert message in str(raised.value)


def test_a_data_set_has_its_own_words_and_they_are_marked() -> None:
    one = Contender(
        label="zero-shot",
        method="zero-shot",
        template_option="template",
        by_data={"dtd": contenders.Changes(recipe={"epochs": 3})},
    )
    assert one.options_for("photos", None) == {}
    assert one.notes_for("photos", None) == []
    assert one.options_for("dtd", "{} texture.") == {"template": "{} texture."}
    assert one.recipe_for("dtd") == {"epochs": 3}
    assert one.recipe_for("photos") == {}
    assert one.notes_for("dtd", "{} texture.") == [
        "a recipe of its own for dtd: epochs",
        "a template picked by hand for dtd: '{} texture.'",
    ]
    changed = one.model_copy(update={"by_data": {"dtd": contenders.Changes(options={"template": "a {}."})}})
    assert changed.notes_for("dtd", "{} texture.") == ["template picked by hand for dtd"]
    told = one.model_copy(update={"options": {"template": "a {}."}})
    assert told.options_for("dtd", "{} texture.") == {"template": "a {}."}
    assert told.notes_for("flowers", "a flower {}.") == []


def test_overrides_reach_those_who_have_the_option() -> None:
    both = [Contender(label="a", method="coop"), Contender(label="b", method="mocoop"), Contender(label="c", method="zero-shot")]
    changed = with_overrides(both, ["recipe.epochs=3", "method.top_k=1", "augmentation.views=0"])
    assert [one.recipe for one in changed] == [{"epochs": 3}] * 3
    assert [one.options for one in changed] == [{}, {"top_k": 1}, {}]
    assert all(one.augmentation.views == 0 for one in changed)
    assert [one.recipe for one in both] == [{}] * 3
    for text, message in (
        ("method.top_kk=1", "no contender has the option 'top_kk'; did you mean 'top_k'"),
        ("epochs=1", "write method.NAME="),
        ("recipe.epochs=0", "epochs is 0"),
        ("augmentation.view=0", "unknown option 'augmentation.view', did you mean 'views'"),
    ):
        with pytest.raises(ConfigError, match=r"contender|--set") as raised:
            with_overrides(both, [text])
        assert message in str(raised.value)


def test_an_option_out_of_its_range_is_told_of_with_its_contender() -> None:
    with pytest.raises(ConfigError, match="contender 'x': options of method coop: context_tokens is 0"):
        check_contender(Contender(label="x", method="coop", options={"context_tokens": 0}))


def test_another_number_of_epochs_goes_before_every_other() -> None:
    one = Contender(
        label="a",
        method="mocoop",
        recipe={"epochs": 20, "warmup_epochs": 5, "rate": 0.01},
        by_data={"dtd": contenders.Changes(recipe={"epochs": 50})},
    )
    (changed,) = with_overrides([one], ["recipe.epochs=2"])
    assert changed.recipe_for("dtd") == changed.recipe == {"epochs": 2, "rate": 0.01}


def test_what_is_asked_for_goes_before_what_a_file_says_of_a_data_set() -> None:
    own = contenders.Changes(recipe={"averaging_mean": 45.0, "rate": 0.1}, options={"text_depth": 3})
    one = Contender(label="a", method="promptsrc", by_data={"dtd": own})
    (changed,) = with_overrides([one], ["recipe.averaging_mean=7", "method.text_depth=2"])
    assert changed.recipe_for("dtd") == {"averaging_mean": 7, "rate": 0.1}
    assert changed.options_for("dtd", None) == {"text_depth": 2}
    assert one.by_data == {"dtd": own}


def test_a_recipe_is_found_however_its_file_is_spelt(tmp_path: Path) -> None:
    for name in ("My_CoOp", "my-coop", "Other_One"):
        (tmp_path / f"{name}.yaml").write_text("method: coop\n")
    for name, found in (("My_CoOp", "My_CoOp"), ("my-coop", "my-coop"), ("other-one", "Other_One"), ("OTHER_one", "Other_One")):
        (contender,) = read_contenders(str(tmp_path), "few-shot", [name])
        assert contender.label == found


def test_an_empty_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('label: " "\nmethod: coop\n')
    with pytest.raises(ConfigError, match=r"mine\.yaml: its label is empty"):
        read_contenders(str(tmp_path), "few-shot", ["mine"])
