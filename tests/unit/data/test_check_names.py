from __future__ import annotations

from collections.abc import Sequence

import pytest

from promptmix.backbones.registry import bundled_folder
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.data.check_names import check_names
from promptmix.data.pictograms import CLASS_NAMES


def knows_all(text: str) -> tuple[int, ...]:
    """A tokenizer to which every word is a token; case and the spaces between words and signs are nothing to it."""
    words = "".join(letter if letter.isalnum() else f" {letter} " for letter in text.casefold()).split()
    return tuple(int.from_bytes(word.encode()) for word in words)


def found(names: Sequence[str], kind: str, most_tokens: int = 60) -> list[tuple[str, ...]]:
    findings = [finding for finding in check_names(names, knows_all, most_tokens) if finding.kind == kind]
    assert len(findings) <= 1
    return [item.classes for finding in findings for item in finding.items]


def test_nothing_is_wrong_with_good_names() -> None:
    good = ["cat", "dog", "okapi", "crab sign", "button-up shirt", "boeing 737", "a380", "3 series sedan", "café", "T-shirt"]
    good += ["moose", "mouse", "glass", "gas", "monkey", "donkey", "1991 Golf", "1991 Passat", "bus", "boss"]
    assert check_names(good, knows_all, 60) == []


def test_equal_names_are_told_once() -> None:
    names = ["hot_dog", "Hot  Dog", "hotdog", "cafe\u0301", "café"]
    assert found(names, "equal_names") == [("hot_dog", "Hot  Dog"), ("cafe\u0301", "café")]
    assert found(names, "equal_tokens") == []
    assert found(names, "similar_names") == [("hot dog", "hotdog")]


def test_names_with_the_same_tokens_cannot_be_told_apart() -> None:
    names = ["t-shirt", "t - shirt", "shirt"]
    assert found(names, "equal_tokens") == [("t-shirt", "t - shirt")]
    assert found(names, "similar_names") == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("strawberry", "strawberries"),
        ("red fox", "red foxes"),
        ("potato", "potatoes"),
        ("shoe", "shoes"),
        ("labrador", "labrodor"),
        ("labrador", "labradr"),
        ("labrador", "larbador"),
        ("big labrador dog", "big labraddor dog"),
        ("flower pot", "flowerpot"),
        ("x-ray", "xray"),
    ],
)
def test_similar_names(left: str, right: str) -> None:
    assert found([left, "zebra", right], "similar_names") == [(left, right)]
    assert found([right, left], "similar_names") == [(right, left)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("cat", "bat"),
        ("mouse", "moose"),
        ("monkey", "donkey"),
        ("class", "clas"),
        ("number one", "number two"),
        ("golf mk1", "golf mk2"),
        ("red apples", "red apricot"),
        ("labrador", "labrodur"),
        ("big cat toy", "big car toy"),
        ("a b", "a b c"),
        ("cap", "cape"),
        ("glass", "glasses of gas"),
        ("ant", "antes of ant"),
        ("bus", "buss"),
    ],
)
def test_names_that_are_not_similar(left: str, right: str) -> None:
    assert found([left, right], "similar_names") == []


@pytest.mark.parametrize(
    "name",
    [
        "12",
        "007",
        "2024-05-01",
        "n01440764",
        "class_01",
        "Class 1",
        "IMG_2",
        "dsc0123",
        "label-3",
        "ab01234",
        "deadbeef01",
        "x.zip",
    ],
)
def test_names_that_are_no_words(name: str) -> None:
    assert found([name, "zebra"], "code_names") == [(" ".join(name.replace("_", " ").split()),)]


def test_numbers_in_front_of_most_names() -> None:
    birds = ["001.Black footed Albatross", "002.Laysan Albatross", "003.Sooty Albatross"]
    assert found([*birds, "zebra"], "code_names") == [(bird,) for bird in birds]
    assert found([birds[0], "zebra", "okapi"], "code_names") == []
    cars = ["1991 Volkswagen Golf", "1993 Geo Metro", "1993 Volvo 240 Sedan"]
    assert found(cars, "code_names") == []


def test_long_and_unusable_names() -> None:
    names = ["one two three four", "cat", "", "x" * 201, "bell\x07"]
    assert found(names, "long_names", most_tokens=3) == [("one two three four",)]
    assert found(names, "long_names", most_tokens=4) == []
    assert found(names, "unusable_names") == [("",), ("x" * 201,), ("bell\x07",)]


def test_vague_names() -> None:
    assert found(["Other", "mother", "unknown", "cat"], "vague_names") == [("Other",), ("unknown",)]


def test_what_a_real_tokenizer_has_to_spell() -> None:
    tokenizer = Tokenizer(bundled_folder() / "tokenizer.json")
    names = ["cat", "umbrella", "лиса", "狐", "zucchini", "cup of coffee", "12", "t-72"]
    findings = {finding.kind: finding for finding in check_names(names, tokenizer.encode, 60)}
    assert [item.classes[0] for item in findings["spelt_out_names"].items] == ["zucchini"]
    assert [item.classes[0] for item in findings["foreign_names"].items] == ["лиса", "狐"]
    assert findings["foreign_names"].items[0].detail == "8 tokens"
    assert {"foreign_names", "spelt_out_names", "code_names"} == set(findings)


def test_the_drawn_classes_have_good_names() -> None:
    tokenizer = Tokenizer(bundled_folder() / "tokenizer.json")
    assert check_names(CLASS_NAMES, tokenizer.encode, 60) == []


def test_names_that_differ_in_digits_are_not_similar() -> None:
    names = [f"model {letter}{number} of the maker" for letter in "abcdefghij" for number in range(100, 200)]
    assert check_names(names, knows_all, 60) == []


def test_a_name_that_is_not_utf_8_is_found_and_nothing_else_breaks() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert found([name, "cat"], "unusable_names") == [(name,)]
