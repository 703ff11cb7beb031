"""What may be wrong with class names, before anything is learnt from them: the model reads them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from promptmix.data.findings import Finding, Item
from promptmix.data.records import check_class_names, class_key, clean_class_name
from promptmix.errors import DataError, printable

__all__ = ["check_names"]

Encode = Callable[[str], Sequence[int]]
"""Token numbers of a text, as a backbone's tokenizer gives them."""

_SHORTEST_SLIP = 6  # letters of a word; shorter words are often one letter apart: moose, mouse

_CODES = re.compile(
    r"""
    [\d\W_]+                                                         # 12, 2024-05
    | n\d{8}                                                         # numbers of WordNet
    | (?:class|classe|klasse|label|category|cat|kind|type|group|folder|dir|id|img|image|pic|picture|photo|dsc|scan|new\ folder
      |untitled|unnamed)\W*\d+                                       # class 01, IMG 2
    | [a-z]{1,3}\d{4,}                                               # ab01234
    | (?=[0-9a-f]*\d)[0-9a-f]{8,}                                    # parts of hashes
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NUMBERED = re.compile(r"(\d+)\s*[.)\-:_ ]\s*[^\W\d]")  # 001.black footed albatross
_FILE_ENDING = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|zip|tar|gz|csv|txt|json)$", re.IGNORECASE)
_VAGUE = frozenset(
    {"background", "default", "else", "misc", "miscellaneous", "na", "negative", "negatives", "neither", "no", "none", "nothing"}
    | {"null", "other", "others", "positive", "rest", "something", "unclassified", "uncategorized", "unknown", "unlabeled"}
    | {"unlabelled", "unsorted", "various"}
)


def check_names(names: Sequence[str], encode: Encode, most_tokens: int) -> list[Finding]:
    """What is found about class names.

    Args:
        encode: the backbone's tokenizer.
        most_tokens: how many tokens of a prompt are left for the name.
    """
    # Bytes that are no text are written out: a tokenizer takes text alone.
    cleaned = [printable(clean_class_name(name)) for name in names]
    tokens = [tuple(encode(name)) for name in cleaned]
    codes = [name for name in cleaned if _CODES.fullmatch(name) or _FILE_ENDING.search(name)]
    codes += _serially_numbered([name for name in cleaned if name not in codes])
    words = [(name, row) for name, row in zip(cleaned, tokens, strict=True) if name not in codes]
    foreign = [(name, row) for name, row in words if _is_foreign(name) and _is_spelt_out(name, encode)]
    spelt_out = [(name, row) for name, row in words if not _is_foreign(name) and _is_spelt_out(name, encode)]
    too_long = [(name, row) for name, row in zip(cleaned, tokens, strict=True) if len(row) > most_tokens]
    found = [
        Finding(
            kind="unusable_names",
            level="error",
            what="class names that cannot be used",
            advice="rename these classes",
            items=tuple(Item(classes=(name,), detail=problem) for name in names if (problem := _problem(name))),
        ),
        Finding(
            kind="equal_names",
            level="error",
            what="class names that are the same name",
            advice="rename one, or merge the classes",
            items=_alike(names, [class_key(name) for name in cleaned]),
        ),
        Finding(
            kind="equal_tokens",
            level="error",
            what="class names that are the same to the backbone, so that it can never tell these classes apart",
            advice="rename one, or merge the classes",
            # Names that are equal outright are told above.
            items=_alike(*_without_repeats(cleaned, tokens)),
        ),
        Finding(
            kind="long_names",
            level="error",
            what=f"class names of more than {most_tokens} tokens, for which no prompt has room",
            advice="shorten them",
            items=tuple(Item(classes=(name,), detail=f"{len(row)} tokens") for name, row in too_long),
        ),
        Finding(
            kind="similar_names",
            level="warning",
            what="class names that are nearly the same: a plural or a slip of the pen?",
            advice="if they mean the same, merge the classes",
            items=_similar(*_without_repeats(cleaned, tokens)),
        ),
        Finding(
            kind="code_names",
            level="warning",
            what="class names that are no words: the model reads the names, and learns far more from words",
            advice="say in a --classes file what the pictures show, or rename the folders",
            items=tuple(Item(classes=(name,)) for name in codes),
        ),
        Finding(
            kind="foreign_names",
            level="warning",
            what="class names in letters that the backbone's tokenizer has no words of",
            advice="translate them to English, or use a backbone that reads them",
            items=tuple(_spelling(name, row) for name, row in foreign),
        ),
        Finding(
            kind="spelt_out_names",
            level="warning",
            what="class names that the backbone's tokenizer has to spell in letters and bits: it hardly knows these words",
            advice="use plain English words, or a backbone that knows these",
            items=tuple(_spelling(name, row) for name, row in spelt_out),
        ),
        Finding(
            kind="vague_names",
            level="note",
            what="class names that do not say what a picture shows",
            advice="pictures of no class are better left out than put into a class of their own",
            items=tuple(Item(classes=(name,)) for name in cleaned if class_key(name) in _VAGUE),
        ),
    ]
    return [finding for finding in found if finding.items]


def _problem(name: str) -> str:
    try:
        check_class_names([name, "one" if class_key(name) != "one" else "two"])
    except DataError as problem:
        return str(problem)
    return ""


def _serially_numbered(names: Sequence[str]) -> list[str]:
    """The names that begin with a number of their own, where most do: it may well be a year, or belong to a word."""
    numbered = {name: int(match[1]) for name in names if (match := _NUMBERED.match(name))}
    return list(numbered) if 2 * len(numbered) > len(names) and len(set(numbered.values())) == len(numbered) else []


def _alike(names: Sequence[str], keys: Iterable[object]) -> tuple[Item, ...]:
    """The names of each key that two or more have."""
    names_of: dict[object, list[str]] = {}
    for name, key in zip(names, keys, strict=True):
        names_of.setdefault(key, []).append(name)
    return tuple(Item(classes=tuple(same)) for same in names_of.values() if len(same) > 1)


def _without_repeats(names: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> tuple[list[str], list[tuple[int, ...]]]:
    first = {class_key(name): place for place, name in reversed(list(enumerate(names)))}
    kept = sorted(place for place in first.values() if tokens[place])
    return [names[place] for place in kept], [tokens[place] for place in kept]


def _words(name: str) -> list[str]:
    """Runs of letters."""
    return re.findall(r"[^\W\d_]+", name)


def _is_foreign(name: str) -> bool:
    letters = [character for character in name if character.isalpha()]
    return any(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters)


def _is_spelt_out(name: str, encode: Encode) -> bool:
    """Whether more than half of the letters stand in words that have more than one token for each two letters."""
    words = _words(name)
    letters = sum(map(len, words))
    # A word of two letters has one token or two, and neither says much; a single sign of Chinese is a word.
    odd = [word for word in words if (len(word) > 2 or not word.isascii()) and 2 * len(encode(word)) > len(word)]
    return letters > 0 and 2 * sum(map(len, odd)) > letters


def _spelling(name: str, tokens: Sequence[int]) -> Item:
    return Item(classes=(name,), detail=f"{len(tokens)} tokens")


# ------------------------------------------------------------------------------------------------------- similar names


def _similar(names: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> tuple[Item, ...]:
    """Pairs of names that differ in nothing but spaces and signs, in a plural, or in one letter of one longer word."""
    # Names with the same tokens are told as such.
    original = {class_key(name): name for name in dict(zip(reversed(tokens), reversed(names), strict=True)).values()}
    keys = sorted(original, key=[class_key(name) for name in names].index)
    pairs: dict[tuple[str, str], None] = {}

    def put(groups: dict[str, list[str]], judge: Callable[[str, str], bool]) -> None:
        for members in groups.values():
            for place, left in enumerate(members):
                for right in members[place + 1 :]:
                    if left != right and (right, left) not in pairs and judge(left, right):
                        pairs[left, right] = None

    by_letters: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    by_shortened: dict[str, list[str]] = {}
    for key in keys:
        by_letters.setdefault("".join(re.findall(r"\w", key)), []).append(key)
        by_stem.setdefault(" ".join(map(_stem, key.split())), []).append(key)
        # Texts that are one letter apart become equal when each loses one letter at most.
        for shortened in {key, *(key[:place] + key[place + 1 :] for place in range(len(key)))}:
            by_shortened.setdefault(shortened, []).append(key)
    put(by_letters, lambda left, right: True)
    put(by_stem, _is_plural)
    put(by_shortened, _is_slip)
    return tuple(Item(classes=(original[left], original[right])) for left, right in pairs)


def _stem(word: str) -> str:
    """What a word and its plural have in common; other words may have it too."""
    return re.sub(r"(?:ie|[eiy])?s?$", "", word)


def _is_plural(left: str, right: str) -> bool:
    """Whether words differ, and only as a word and its plural do."""
    for one, other in zip(left.split(), right.split(), strict=True):
        short, long = sorted((one, other), key=len)
        y_to_ies = short[:-1] + "ies" if short.endswith("y") else ""
        if one != other and (len(short) < 3 or short.endswith("s") or long not in (short + "s", short + "es", y_to_ies)):
            return False
    return left != right


def _is_slip(left: str, right: str) -> bool:
    """Whether just one word differs, is long enough, and differs by one letter: another, one more, or two changed round."""
    lefts, rights = left.split(), right.split()
    if len(lefts) != len(rights):
        return False
    differing = [(one, other) for one, other in zip(lefts, rights, strict=True) if one != other]
    if len(differing) != 1:
        return False
    one, other = sorted(differing[0], key=len)
    if len(other) < _SHORTEST_SLIP or not (one + other).isalpha():
        return False
    if one[0] != other[0]:  # fingers seldom miss the first: monkey and donkey are both meant
        return False
    start = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    rest, other_rest = one[start:], other[start:]
    if len(one) != len(other):
        return rest == other_rest[1:]
    return rest[1:] == other_rest[1:] or (rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:])
