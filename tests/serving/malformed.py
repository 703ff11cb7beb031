"""A thousand requests with something wrong in each, the same ones every time, as bytes that go over a socket."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.serving import malformed_bodies as bodies
from tests.serving import malformed_heads as heads
from tests.serving.malformed_base import Malformed


def malformed(number: int, token: str, seed: int = 0) -> list[Malformed]:
    """So many requests, in turn of every kind."""
    chance = random.Random(seed)
    good = {kind: bodies.whole_picture(kind) for kind in bodies.FORMATS}
    kinds: list[Callable[[random.Random], Malformed]] = [
        lambda chance: bodies.cut_off(chance, good),
        lambda chance: bodies.damaged_head(chance, good),
        bodies.bomb,
        bodies.no_picture,
        bodies.bad_file_name,
        bodies.broken_form,
        bodies.wrong_kind,
        bodies.no_base64,
        bodies.odd_json,
        heads.odd_options,
        lambda chance: heads.odd_classes(chance, token),
        heads.odd_head,
        heads.lying_length,
        heads.lying_chunks,
        heads.no_http,
    ]
    return [kinds[place % len(kinds)](chance) for place in range(number)]
