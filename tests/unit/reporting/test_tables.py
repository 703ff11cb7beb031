"""Tables, letter by letter."""

from __future__ import annotations

import pytest

from promptmix.reporting.aggregate import spread
from promptmix.reporting.tables import markdown_table, share_with_spread, text_table


def test_a_text_table_has_names_to_the_left_and_numbers_to_the_right() -> None:
    table = text_table(["method", "base"], [["CoOp", "56.4 ± 3.3"], ["zero-shot", "5.0"]])
    assert table.split("\n") == [
        "method           base",
        "---------  ----------",
        "CoOp       56.4 ± 3.3",
        "zero-shot         5.0",
    ]


def test_columns_go_to_the_side_that_is_asked_for() -> None:
    assert text_table(["n", "name", "x"], [["10", "ab", "1"]], align="rlr").split("\n") == [
        " n  name  x",
        "--  ----  -",
        "10  ab    1",
    ]
    for wrong in ("rl", "rlrl", "rlc"):
        with pytest.raises(ValueError, match="align"):
            text_table(["n", "name", "x"], [["10", "ab", "1"]], align=wrong)


def test_a_table_may_have_no_rows() -> None:
    assert text_table(["method", "base"], []) == "method  base\n------  ----"
    assert markdown_table(["method", "base"], []) == "| method | base |\n|---|---:|"


@pytest.mark.parametrize(
    ("cell", "width"),
    [
        ("狐", 2),
        ("e\N{COMBINING ACUTE ACCENT}é", 2),
        ("か\N{COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK}", 2),  # a mark that is itself listed as wide
        ("❤\N{VARIATION SELECTOR-15}a", 2),  # a mark without a combining class
        ("a\N{ZERO WIDTH SPACE}b", 2),
    ],
)
def test_wide_letters_and_marks_upon_letters_keep_the_columns_straight(cell: str, width: int) -> None:
    header, rule, line = text_table(["a", "b"], [[cell, "1"]]).split("\n")
    assert header == "a" + " " * (width - 1) + "  b"
    assert rule == "-" * width + "  -"
    assert line == cell + "  1"


def test_a_cell_stays_on_its_line() -> None:
    assert text_table(["a"], [["x\ny\tz\x1b[31m\u2028w"]]).split("\n")[2:] == ["x y z [31m w"]
    assert markdown_table(["a"], [["x\r\ny"]]) == "| a |\n|---|\n| x  y |"


def test_markdown_escapes_what_would_be_a_column() -> None:
    assert markdown_table(["a|b", "n"], [["x", "1"]]) == "| a\\|b | n |\n|---|---:|\n| x | 1 |"
    # A backslash before the bar would otherwise undo its escape.
    assert markdown_table(["a\\|b"], []) == "| a\\\\\\|b |\n|---|"


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_row_of_another_length_is_refused(table: object) -> None:
    assert callable(table)
    with pytest.raises(ValueError, match="2 cells"):
        table(["a"], [["x", "y"]])
    with pytest.raises(ValueError, match="a column"):
        table([], [])


def test_shares_are_in_per_cent() -> None:
    assert share_with_spread(spread([0.5])) == "50.0"
    assert share_with_spread(spread([0.5, 0.6])) == "55.0 ± 7.1"
    assert share_with_spread(spread([1.0, 1.0])) == "100.0 ± 0.0"
