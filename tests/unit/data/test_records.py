from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from promptmix.data.records import PictureSet, Record, check_class_names, class_key, clean_class_name
from promptmix.errors import DataError


def picture_set(labels: list[int], names: tuple[str, ...] = ("cat", "dog", "owl")) -> PictureSet:
    records = tuple(Record(picture=Path(f"photos/{place}.jpg"), label=label) for place, label in enumerate(labels))
    return PictureSet(root=Path("photos"), class_names=names, records=records)


def test_labels_paths_and_counts() -> None:
    pictures = picture_set([2, 0, 2])
    assert pictures.labels == (2, 0, 2)
    assert pictures.pictures == (Path("photos/0.jpg"), Path("photos/1.jpg"), Path("photos/2.jpg"))
    assert pictures.counts() == (1, 0, 2)
    assert len(pictures) == 3


def test_a_label_without_a_class_is_refused() -> None:
    for label in (-1, 3):
        with pytest.raises(DataError, match=rf"label {label}, but labels go from 0 to 2"):
            picture_set([0, label])


def test_only_classes_relabels_in_the_given_order() -> None:
    chosen = picture_set([0, 1, 2, 2, 1]).only_classes([2, 0])
    assert chosen.class_names == ("owl", "cat")
    assert [(record.picture.name, record.label) for record in chosen.records] == [("0.jpg", 1), ("2.jpg", 0), ("3.jpg", 0)]


@given(st.lists(st.integers(0, 4), max_size=30), st.permutations(range(5)), st.integers(1, 5))
def test_only_classes_never_parts_a_picture_from_its_name(labels: list[int], order: list[int], kept: int) -> None:
    pictures = picture_set(labels, ("a", "b", "c", "d", "e"))
    names = {record.picture: pictures.class_names[record.label] for record in pictures.records}
    chosen = pictures.only_classes(order[:kept])
    assert all(names[record.picture] == chosen.class_names[record.label] for record in chosen.records)
    assert len(chosen) == sum(label in order[:kept] for label in labels)


@pytest.mark.parametrize(("indices", "message"), [([0, 0], "twice"), ([3], "no class number 3"), ([-1], "no class number -1")])
def test_only_classes_refuses_indices_that_are_no_choice_of_classes(indices: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        picture_set([0]).only_classes(indices)


def test_subset_keeps_order_and_classes() -> None:
    chosen = picture_set([0, 1, 2]).subset([2, 0])
    assert chosen.labels == (2, 0)
    assert chosen.class_names == ("cat", "dog", "owl")


def test_clean_class_name() -> None:
    assert clean_class_name("  Chess_knight__white \n") == "Chess knight white"


@given(st.text())
def test_cleaning_twice_changes_nothing_and_keeps_all_else(name: str) -> None:
    cleaned = clean_class_name(name)
    assert clean_class_name(cleaned) == cleaned
    assert cleaned.replace(" ", "") == "".join(name.replace("_", "").split())


def test_class_key_ignores_case_underscores_and_the_coding_of_accents() -> None:
    assert class_key("Café_Crème") == class_key("cafe\u0301  cre\u0300me")
    assert class_key("Straße") == class_key("STRASSE")
    assert class_key("cat") != class_key("cats")


def test_check_class_names_cleans_and_keeps_order() -> None:
    assert check_class_names(["hot_dog", "Apple"]) == ("hot dog", "Apple")
    assert check_class_names(["x" * 200, "y"])[0] == "x" * 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class names"),
        (["cat"], r"one class \('cat'\)"),
        (["cat", "_ "], r"'_ ' is empty"),
        (["Hot_Dog", "cat", "hot dog"], "'Hot_Dog' and 'hot dog' are the same"),
        (["cat", "do\x07g"], r"'do\\x07g' holds a control character"),
        (["cat", "do\x00g"], r"'do\\x00g' holds a control character"),
        (["cat", "caf\udce9"], "control character"),
        (["cat", "x" * 201], "201 characters; at most 200"),
        ("okapi", "not the text 'okapi'"),
    ],
)
def test_check_class_names_refuses(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_class_names(names)
    assert "\n" not in str(caught.value)


def test_a_class_name_that_is_not_text() -> None:
    # Where the tests check types, the argument is refused before it gets that far.
    with pytest.raises((DataError, TypeCheckError), match="3"):
        check_class_names([3, 3])  # type: ignore[list-item]


def test_invisible_signs_make_no_name_and_no_other_name() -> None:
    for nothing in ("\u200b", "\ufeff", "\u200b \u2060"):
        with pytest.raises(DataError, match="is empty; give it letters"):
            check_class_names(["cat", nothing])
    with pytest.raises(DataError, match="are the same name"):
        check_class_names(["cat", "cat \u200b"])
    family = "👩\u200d👧"  # joined by an invisible sign, which is kept
    assert check_class_names([family, "cat"])[0] == family
