"""Errors: their family, the exit codes that are promised, and the hint at the nearest name."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptmix import errors
from promptmix.errors import PromptMixError, UnreadablePictureError, did_you_mean, listed, printable

EXIT_CODES = {
    "PromptMixError": 1,
    "ConfigError": 3,
    "DataError": 4,
    "UnreadablePictureError": 4,
    "BackboneError": 5,
    "CheckpointError": 5,
    "HubError": 5,
    "NotFittedError": 1,
    "OutOfMemoryError": 6,
    "LostRankError": 7,
    "InterruptedRun": 130,
}


def test_every_error_has_its_promised_exit_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PromptMixError)]
    assert {kind.__name__: kind.exit_code for kind in classes} == EXIT_CODES
    assert set(errors.__all__) == {*EXIT_CODES, "did_you_mean", "listed", "printable"}


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("ConfigError", ValueError), ("DataError", ValueError), ("NotFittedError", AttributeError)],
)
def test_people_who_catch_the_builtin_error_catch_ours(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what happened"):
        raise getattr(errors, name)("what happened")


def test_what_is_wrong_with_a_picture_and_what_to_do_are_told_as_one_line_in_any_process() -> None:
    problem = copy.copy(
        UnreadablePictureError("cat.png is damaged", "mend it")
    )  # by the same means as it goes to another process
    assert (str(problem), problem.reason) == ("cat.png is damaged; mend it", "cat.png is damaged")
    assert str(UnreadablePictureError("cat.png is damaged")).startswith("cat.png is damaged; pass --skip-bad")


def test_the_hint_names_the_nearest_choice_and_all_others() -> None:
    assert did_you_mean("mocop", ["coop", "mocoop", "zero-shot"]) == "; did you mean 'mocoop'? Allowed: coop, mocoop, zero-shot"


def test_nothing_near_gives_the_choices_alone() -> None:
    assert did_you_mean("quokka", ["coop", "mocoop"]) == "; Allowed: coop, mocoop"


def test_the_choices_may_be_read_only_once() -> None:
    assert did_you_mean("cop", iter(["coop", "mocoop"])) == "; did you mean 'coop'? Allowed: coop, mocoop"


def test_of_very_many_choices_some_are_told() -> None:
    hint = did_you_mean("thing5x", [f"thing{number}" for number in range(10_000)])
    assert "did you mean 'thing5" in hint
    assert hint.endswith(" thing98, thing99 and 9900 more")


@given(value=st.text(), allowed=st.lists(st.text(alphabet="abc-", min_size=1), min_size=1, max_size=100))
def test_a_hint_only_ever_names_allowed_choices(value: str, allowed: list[str]) -> None:
    hint = did_you_mean(value, allowed)
    assert hint.endswith(f" Allowed: {', '.join(allowed)}")
    if "did you mean" in hint:
        assert hint.startswith(tuple(f"; did you mean {choice!r}?" for choice in allowed))


def test_a_long_list_is_cut_and_says_so() -> None:
    assert listed(iter(["a", "b"])) == "a, b"
    assert listed(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(map(str, range(12)), most=3) == "0, 1, 2 and 9 more"


def test_a_name_that_is_not_utf8_is_written_out() -> None:
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\udce9"
    assert printable("café ☕") == "café ☕"


def test_signs_that_break_a_line_or_steer_a_terminal_are_written_out() -> None:
    assert printable("a\nb\r\x1b[31m\x85\u2028.png") == "a\\nb\\r\\x1b[31m\\x85\\u2028.png"
