"""Named emoji artwork for pretraining: pictures with the words that are true of them, varied without a change of meaning.

The folder holds a tar of 64 x 64 WebP pictures for each style, ``names.csv`` and ``identical.csv``. Nothing is mirrored: names hold
directions and clock times.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from promptmix.data import pictograms

__all__ = ["EMOJI_TEMPLATES", "PRETRAINING_EMOJI_STYLES", "UNSEEN_EMOJI_STYLES", "Artwork", "Emoji", "read_artwork", "varied"]

# The first template of each style is its most usual wording.
EMOJI_TEMPLATES: dict[str, tuple[str, ...]] = {
    "noto": ("a cartoon of a {}.", "a cartoon {}.", "a coloured drawing of a {}."),
    "twemoji": ("an emoji of a {}.", "a simple drawing of a {}.", "clip art of a {}."),
    "fluent_3d": ("a 3d rendering of a {}.", "a plastic {}.", "a rendering of the {}."),
    "fluent_flat": ("a flat icon of a {}.", "an icon of a {}.", "a flat drawing of the {}."),
    "fluent_black": ("a black and white icon of a {}.", "a black and white {}.", "a silhouette of a {}."),
    "openmoji_colour": ("a coloured line drawing of a {}.",),
    "openmoji_black": ("a line drawing of a {}.",),
}
# OpenMoji is share-alike, so no weights come from it: its styles only measure.
UNSEEN_EMOJI_STYLES: tuple[str, ...] = ("openmoji_colour", "openmoji_black")
PRETRAINING_EMOJI_STYLES: tuple[str, ...] = tuple(style for style in EMOJI_TEMPLATES if style not in UNSEEN_EMOJI_STYLES)

_FEWEST_EMOJI = 2  # a keyword of a single emoji says no more than its name


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One picture of one style.

    Attributes:
        name: its English name.
        names: all names of the same drawing in this style, its own among them.
        keywords: words that are true of it and of other emoji.
    """

    pixels: NDArray[np.uint8]  # (64, 64, 3), on white
    style: str
    name: str
    names: frozenset[str]
    keywords: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Artwork:
    """All pictures by style, and all names in the order of the table."""

    names: tuple[str, ...]
    keywords: tuple[str, ...]
    by_style: dict[str, list[Emoji]]


def read_artwork(folder: Path) -> Artwork:
    """Read every style whole: 8,516 pictures are 100 MB."""
    with (folder / "names.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["codepoint"]: row for row in csv.DictReader(file)}
    counts = Counter(word for row in rows.values() for word in row["keywords"].split(";"))
    common = {word for word, count in counts.items() if count >= _FEWEST_EMOJI and any(letter.isalpha() for letter in word)}
    same: dict[tuple[str, str], set[str]] = {}
    with (folder / "identical.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pair = (row["style"], row["codepoint"]), (row["style"], row["same_picture_as"])
            joined = same.get(pair[0], {row["name"]}) | same.get(pair[1], {row["its_name"]})
            for key in [*pair, *(key for key, names in same.items() if key[0] == row["style"] and names & joined)]:
                same[key] = joined
    by_style: dict[str, list[Emoji]] = {}
    for style in EMOJI_TEMPLATES:
        by_style[style] = []
        with tarfile.open(folder / f"{style}.tar") as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file_of_member = archive.extractfile(member)
                if file_of_member is None or not member.name.endswith(".webp"):
                    continue
                row = rows[Path(member.name).stem]
                image = Image.open(io.BytesIO(file_of_member.read())).convert("RGB")
                by_style[style].append(
                    Emoji(
                        pixels=np.asarray(image),
                        style=style,
                        name=row["name"],
                        names=frozenset(same.get((style, row["codepoint"]), {row["name"]})),
                        keywords=tuple(word for word in row["keywords"].split(";") if word in common),
                    )
                )
    return Artwork(names=tuple(row["name"] for row in rows.values()), keywords=tuple(sorted(common)), by_style=by_style)


def varied(emoji: Emoji, effect: str | None, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The picture smaller or a little larger, turned a little, off centre, often on a tinted ground; then an effect of the drawn world."""
    size = pictograms.IMAGE_SIZE
    scale = generator.uniform(0.5, 1.08)
    angle = generator.normal(0, 0.12)
    room = max(0.0, size * (1 - scale) / 2) + 2
    centre_x, centre_y = size / 2 + generator.uniform(-room, room, 2)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    middle = size / 2
    matrix = (
        cosine, sine, middle - cosine * centre_x - sine * centre_y,
        -sine, cosine, middle + sine * centre_x - cosine * centre_y,
    )  # fmt: skip
    turned = Image.fromarray(emoji.pixels).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255)
    )
    pixels = np.asarray(turned, dtype=np.float32) / np.float32(255)
    if generator.random() < 0.6:
        # White becomes the ground, and colours stay what they are on it, as ink does on tinted paper.
        corners = generator.uniform(0.6, 1.0, (2, 2, 3)).astype(np.float32)
        ground = Image.fromarray((corners * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)
        pixels = pixels * (np.asarray(ground, dtype=np.float32) / np.float32(255))
    pixels = (pixels - 0.5) * np.float32(generator.uniform(0.8, 1.1)) + np.float32(0.5 + generator.normal(0, 0.04))
    if effect is not None:
        pixels = pictograms.EFFECTS[effect](pixels, generator)
    varied_pixels: NDArray[np.uint8] = np.clip(pixels * 255 + 0.5, 0, 255).astype(np.uint8)
    return varied_pixels
