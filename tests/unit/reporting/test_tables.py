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


def test_wide_and_combining_letters_keep_the_columns_straight() -> None:
    lines = text_table(["a", "b"], [["狐", "1"], ["e\N{COMBINING ACUTE ACCENT}é", "2"]]).split("\n")
    assert lines[2] == "狐  1"
    assert lines[3] == "e\N{COMBINING ACUTE ACCENT}é  2"


def test_markdown_escapes_what_would_be_a_column() -> None:
    assert markdown_table(["a|b", "n"], [["x", "1"]]) == "| a\\|b | n |\n|---|---:|\n| x | 1 |"


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_row_of_another_length_is_refused(table: object) -> None:
    assert callable(table)
    with pytest.raises(ValueError, match="2 cells"):
        table(["a"], [["x", "y"]])


def test_shares_are_in_per_cent() -> None:
    assert share_with_spread(spread([0.5])) == "50.0"
    assert share_with_spread(spread([0.5, 0.6])) == "55.0 ± 7.1"
