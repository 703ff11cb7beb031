"""Tables, letter by letter."""

from __future__ import annotations

import pytest

from promptmix.reporting.aggregate import spread
from promptmix.reporting.tables import (
    Cell,
    Table,
    as_latex,
    as_markdown,
    as_text,
    csv_text,
    latex_text,
    markdown_table,
    number_with_spread,
    points_with_interval,
    share_with_interval,
    share_with_spread,
    text_table,
)

MARKED = Table(
    title="Accuracy on my_pets",
    above=("Measured on 10 pictures.", "In %."),
    header=("contender", "4 shots", "8 shots"),
    rows=(
        (Cell("zero-shot"), Cell("50.0"), Cell("50.0")),
        (
            Cell("CoOp & *", ("saw new names",)),
            Cell("45.0", ("below zero-shot", "seed 2 missing")),
            Cell("-3.0", ("seed 2 missing",)),
        ),
    ),
)


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
    assert share_with_spread(spread([1.0, 1.0])) == share_with_interval(spread([1.0, 1.0])) == "100.0"
    assert share_with_interval(spread([0.5])) == "50.0"
    assert share_with_interval(spread([0.50, 0.54, 0.58])) == "54.0 ± 4.0 [44.1, 63.9]"


def test_differences_always_have_a_sign() -> None:
    assert points_with_interval(spread([0.012])) == "+1.2"
    assert points_with_interval(spread([-0.012])) == points_with_interval(spread([-0.012, -0.012])) == "-1.2"
    assert points_with_interval(spread([-0.0001])) == "+0.0"
    assert points_with_interval(spread([0.00, 0.04, 0.08])) == "+4.0 ± 4.0 [-5.9, +13.9]"


def test_numbers_that_are_no_shares() -> None:
    assert number_with_spread(spread([1203.44])) == "1,203.4"
    assert number_with_spread(spread([1.0, 2.0]), 3) == "1.500 ± 0.707"


def test_markdown_escapes_emphasis_code_and_html() -> None:
    assert markdown_table(["*a*", "`b`"], [["<img src=x>", "-1"]]).split("\n")[::2] == [
        "| \\*a\\* | \\`b\\` |",
        "| \\<img src=x> | -1 |",
    ]
    assert markdown_table(["a", "b"], [], align="lr").split("\n")[1] == "|---|---:|"
    assert markdown_table(["a", "b"], [], align="ll").split("\n")[1] == "|---|---|"


def test_a_table_with_its_footnotes_for_a_terminal() -> None:
    """Every note has one sign, wherever it appears; signs do not push the numbers out of their columns."""
    assert as_text(MARKED).split("\n") == [
        "Accuracy on my_pets",
        "Measured on 10 pictures.",
        "In %.",
        "",
        "contender     4 shots        8 shots",
        "------------  -------------  -----------",
        "zero-shot        50.0           50.0",
        "CoOp & * (a)     45.0 (b,c)     -3.0 (c)",
        "",
        "(a) saw new names",
        "(b) below zero-shot",
        "(c) seed 2 missing",
    ]


def test_a_table_with_its_footnotes_as_markdown() -> None:
    assert as_markdown(MARKED).split("\n\n") == [
        "### Accuracy on my_pets",
        "Measured on 10 pictures.",
        "In %.",
        "| contender | 4 shots | 8 shots |\n|---|---:|---:|\n| zero-shot | 50.0 | 50.0 |\n| CoOp & \\* (a) | 45.0 (b,c) | -3.0 (c) |",
        "(a) saw new names",
        "(b) below zero-shot",
        "(c) seed 2 missing",
    ]


def test_a_table_with_its_footnotes_as_latex() -> None:
    assert as_latex(MARKED).split("\n") == [
        r"\begin{table}",
        r"\caption{Accuracy on my\_pets. Measured on 10 pictures. In \%.}",
        r"\centering\scriptsize",
        r"\begin{tabular}{lrr}",
        r"\hline",
        r"contender & 4 shots & 8 shots \\",
        r"\hline",
        r"zero-shot & 50.0 & 50.0 \\",
        r"CoOp \& {*}\textsuperscript{a} & 45.0\textsuperscript{b,c} & $-$3.0\textsuperscript{c} \\",
        r"\hline",
        r"\end{tabular}",
        r"\par\textsuperscript{a} saw new names",
        r"\par\textsuperscript{b} below zero-shot",
        r"\par\textsuperscript{c} seed 2 missing",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"a_b & 5 % of $x^2$ #1 {y} ~z", r"a\_b \& 5 \% of \$x\textasciicircum{}2\$ \#1 \{y\} \textasciitilde{}z"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("1 < 2 > 0 | 3", r"1 \textless{} 2 \textgreater{} 0 \textbar{} 3"),
        # A row that begins with [ or * would be an option of the end of the row above.
        ("56.5 ± 0.8 [54.5, 58.5]*", r"56.5 $\pm$ 0.8 {[}54.5, 58.5{]}{*}"),
        ('"a" `b\'', r"\symbol{34}a\symbol{34} {`}b{'}"),
        ("-0.4 [-1.0] zero-shot 16-shot a--b --3", r"$-$0.4 {[}$-$1.0{]} zero-shot 16-shot a-{}-b -{}-3"),
        ("two\nlines\u2028", "two lines "),
        ("狐 é …", "狐 é …"),
    ],
)
def test_latex_prints_names_letter_by_letter(text: str, written: str) -> None:
    assert latex_text(text) == written


def test_signs_of_footnotes_go_on_after_z() -> None:
    rows = tuple((Cell("x", (f"note {number}",)),) for number in range(28))
    signs = list(Table(title="", above=(), header=("a",), rows=rows).footnotes().values())
    assert signs[:2] + signs[25:] == ["a", "b", "z", "aa", "ab"]


def test_csv_keeps_numbers_whole() -> None:
    assert csv_text(["a", "b"], [[1 / 3, None], ["x,\ny", True]]) == 'a,b\n0.3333333333333333,\n"x,\ny",True\n'
