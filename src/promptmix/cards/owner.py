"""Whose a model card is: one block of it and some keys of its head are ours, and follow the model; the rest is its owner's, and stays.

A card is a head for the hub (YAML), and then one block between two marks, with whatever its owner writes above and below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["BEGIN", "END", "has_own_text", "renewed_card", "with_head"]

BEGIN = "<!-- promptmix: what stands between this mark and the next is written anew whenever the model changes; write above or below -->"
END = "<!-- promptmix: end -->"
_BLOCK = re.compile(r"^<!-- promptmix: what stands [^\n]*-->$.*?^<!-- promptmix: end -->$", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"\A---\n(.*?)^---$\n?", re.MULTILINE | re.DOTALL)
_OUR_KEYS = ("library_name", "pipeline_tag", "license", "base_model", "base_model_relation", "tags", "model-index")


def renewed_card(existing: str, fresh: str, before: str | None = None) -> str | None:
    """A card with its block as in ``fresh``, and everything else as its owner has it; None where it has text but no marks.

    A key of the head that still is as in ``before``, the card as it was written last, follows the model.
    """
    theirs, body = _parted(existing)
    ours, fresh_body = _parted(fresh)
    assert ours is not None
    block = fresh_body.strip()
    found = _BLOCK.search(body)
    if found is None and body.strip():
        return None
    body = f"\n{block}\n" if found is None else body[: found.start()] + block + body[found.end() :]
    if theirs is None:  # a head that cannot be read is left as it is
        merged = None
    elif found is None:
        merged = {**ours, **theirs}
    else:
        written, _ = _parted(fresh if before is None else before)
        merged = _merged(theirs, written or {}, ours)
    if merged is None or merged == theirs:
        head = _HEAD.match(existing)
        return ("" if head is None else head[0]) + body
    return with_head(merged, body)


def has_own_text(existing: str, fresh: str) -> bool:
    """Whether somebody wrote into a card, of which ``fresh`` is one that nobody wrote into."""
    theirs, body = _parted(existing)
    ours, _ = _parted(fresh)
    found = _BLOCK.search(body)
    if found is None or theirs is None or ours is None or (body[: found.start()] + body[found.end() :]).strip():
        return True
    kept, written = ({key: value for key, value in head.items() if key != "model-index"} for head in (theirs, ours))
    return kept != written or len(_foreign_results(theirs)) > 0


def with_head(fields: Mapping[str, Any], body: str) -> str:
    """A card of the keys of its head and what follows it."""
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=1000)}---\n{body}"


def _parted(card: str) -> tuple[dict[str, Any] | None, str]:
    """The keys of a card's head, empty without a head and None where it cannot be read; and what follows it."""
    found = _HEAD.match(card)
    if found is None:
        return {}, card
    body = card[found.end() :]
    try:
        fields = yaml.safe_load(found[1]) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return None, body
    return (fields if isinstance(fields, dict) else None), body


def _merged(theirs: Mapping[str, Any], before: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(theirs)
    for key in _OUR_KEYS:
        if key == "model-index":
            value: Any = [*fresh.get(key, []), *_foreign_results(theirs)] or None
        else:
            value = fresh.get(key) if theirs.get(key) == before.get(key) else theirs.get(key)
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _foreign_results(head: Mapping[str, Any]) -> list[Any]:
    """Results that somebody else put into the head."""
    every = head.get("model-index")
    every = every if isinstance(every, list) else []
    return [one for one in every if not (isinstance(one, dict) and str(one.get("name", "")).startswith("promptmix "))]
