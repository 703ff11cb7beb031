"""Pictures that show the same: sketches of pictures, and groups of those whose sketches agree.

A sketch is a hash of 64 bits, one for each of the lowest frequencies of the picture in grey, and the picture in 16 x 16 pixels.
Hashes that differ in a few bits are found without comparing all with all; whether two such pictures agree in their details too
is seen in the small pictures. A copy that was scaled, compressed or brightened agrees; one of a series of photographs may; the
same kind of thing from the same side does not.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt64
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MOST_DIFFERENT_BITS", "Sketch", "look_alikes", "near_pairs", "sketch"]

MOST_DIFFERENT_BITS = 6

_HASHED_SIZE = 32  # pixels of the square that is hashed
_KEPT_SIZE = 16
_BITS = 64
_LEAST_CONTRAST = 3.0  # standard deviation in grey levels; below it a hash would be made of noise
_LEAST_COEFFICIENT = 8.0  # in grey levels; what is smaller may be noise of compression
_LEAST_AGREEMENT = 0.9
_PAIRS_AT_ONCE = 4096
_MOST_OF_ONE_HASH = 100


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What is kept of a picture to find its like.

    Attributes:
        hash: 64 bits; None for a picture that is nearly of one colour, which is like no other.
        pixels: the picture in 16 x 16 pixels, RGB.
    """

    hash: int | None
    pixels: UInt8[np.ndarray, "16 16 3"]


def sketch(image: Image.Image) -> Sketch:
    """The sketch of an RGB picture."""
    # Averages over boxes, from a picture that was first made smaller by a whole factor: as good, and much quicker.
    hashed, kept = (
        np.asarray(image.resize((size, size), Image.Resampling.BOX, reducing_gap=3.0)) for size in (_HASHED_SIZE, _KEPT_SIZE)
    )
    grey = hashed @ np.array([0.299, 0.587, 0.114])
    if grey.std() < _LEAST_CONTRAST:
        return Sketch(hash=None, pixels=kept)
    waves, places = _waves()
    coefficients = (waves @ grey @ waves.T).ravel()[places]
    # Half the waves of a symmetric drawing are nearly 0; by their signs alone a copy of it would not be known again.
    least = max(_LEAST_COEFFICIENT, 0.1 * float(np.sqrt(np.square(coefficients).mean())))
    return Sketch(hash=int.from_bytes(np.packbits(coefficients > least).tobytes(), "big"), pixels=kept)


@functools.cache
def _waves() -> tuple[Float64[np.ndarray, "frequency place"], Int64[np.ndarray, "bit"]]:
    """The cosine transform of one side as a matrix, and the places of the 64 lowest frequencies of both, the mean not among them."""
    number = np.arange(_HASHED_SIZE)
    waves = np.cos(np.pi * number[:, None] * (2 * number + 1) / (2 * _HASHED_SIZE)) * np.sqrt(2 / _HASHED_SIZE)
    waves[0] /= np.sqrt(2)
    height = number[:, None] ** 2 + number**2
    return waves, np.argsort(height.ravel(), kind="stable")[1 : _BITS + 1]


def near_pairs(hashes: UInt64[np.ndarray, "picture"], most_bits: int) -> Int64[np.ndarray, "pair 2"]:
    """All pairs of places, the smaller first, whose hashes differ in at most ``most_bits`` bits (0 to 63); each pair once.

    Hashes that differ in d bits agree in one of d + 1 bands of bits: only those that share a band are compared.
    """
    edges = np.linspace(0, _BITS, most_bits + 2).round().astype(int)
    masks = [np.uint64((1 << int(high)) - (1 << int(low))) for low, high in itertools.pairwise(edges)]
    found: list[Int64[np.ndarray, "pair 2"]] = []
    for number, mask in enumerate(masks):
        band = hashes & mask
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        # For each place in this order, where its bucket of equal bands ends.
        ends = np.searchsorted(ordered, ordered, side="right")
        first = np.arange(len(hashes))
        for distance in range(1, len(hashes)):
            first = first[first + distance < ends[first]]
            if len(first) == 0:
                break
            left, right = order[first], order[first + distance]
            differing = hashes[left] ^ hashes[right]
            near = np.bitwise_count(differing) <= most_bits
            for earlier in masks[:number]:
                near &= differing & earlier != 0  # else this pair was found there
            found.append(np.stack([left[near], right[near]], axis=1))
    if not found:
        return np.empty((0, 2), np.int64)
    return np.sort(np.concatenate(found), axis=1)


def look_alikes(sketches: Sequence[Sketch]) -> list[list[int]]:
    """Groups of two or more places whose pictures look the same, sorted; who looks like a member is a member.

    Of more than 100 different pictures with one and the same hash only 100 are compared with the others.
    """
    hashed = [place for place, one in enumerate(sketches) if one.hash is not None]
    if len(hashed) < 2:
        return []
    hashes = np.array([sketches[place].hash for place in hashed], np.uint64)
    pixels = np.stack([sketches[place].pixels for place in hashed])
    joined = _Joined(len(hashed))

    # Pictures with the same hash first, so that a thousand copies of one picture do not make half a million pairs.
    order = np.argsort(hashes, kind="stable")
    values, starts = np.unique(hashes[order], return_index=True)
    leaders: list[int] = []
    leader_counts: list[int] = []
    for members in np.split(order, starts[1:]):
        rest, count = members, 0
        while len(rest) > 0 and count < _MOST_OF_ONE_HASH:
            leader, rest = int(rest[0]), rest[1:]
            leaders.append(leader)
            count += 1
            if len(rest) > 0:
                same = _agree(pixels, np.stack([np.full(len(rest), leader), rest], axis=1))
                for member in rest[same].tolist():
                    joined.join(leader, member)
                rest = rest[~same]
        leader_counts.append(count)

    candidates = _all_of_each(near_pairs(values, MOST_DIFFERENT_BITS), np.array(leaders), np.array(leader_counts))
    for left, right in candidates[_agree(pixels, candidates)].tolist():
        joined.join(left, right)
    return sorted([hashed[member] for member in group] for group in joined.groups() if len(group) > 1)


def _all_of_each(
    pairs: Int64[np.ndarray, "pair 2"], members: Int64[np.ndarray, "member"], counts: Int64[np.ndarray, "group"]
) -> Int64[np.ndarray, "member_pair 2"]:
    """Every member of one group with every member of the other, for each pair of groups; members stand group by group."""
    firsts = np.cumsum(counts) - counts
    left, right = pairs.T
    sizes = counts[left] * counts[right]
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = np.repeat(counts[right], sizes)
    lefts = members[np.repeat(firsts[left], sizes) + place // width]
    rights = members[np.repeat(firsts[right], sizes) + place % width]
    return np.stack([lefts, rights], axis=1)


def _agree(pixels: UInt8[np.ndarray, "picture 16 16 3"], pairs: Int64[np.ndarray, "pair 2"]) -> Bool[np.ndarray, "pair"]:
    """Whether the pictures of each pair are much the same, as a whole and in what is left of them without their blurred selves."""
    verdicts = [np.empty(0, bool)]
    for first in range(0, len(pairs), _PAIRS_AT_ONCE):
        left, right = (pixels[pairs[first : first + _PAIRS_AT_ONCE, side]].astype(np.float32) for side in (0, 1))
        whole = _correlation(left, right)
        details = _correlation(left - _blurred(left), right - _blurred(right))
        verdicts.append((whole >= _LEAST_AGREEMENT) & (details >= _LEAST_AGREEMENT))
    return np.concatenate(verdicts)


def _correlation(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    left, right = (part - part.mean(axis=(1, 2), keepdims=True) for part in (left, right))
    sizes = np.square(left).sum(axis=(1, 2, 3)) * np.square(right).sum(axis=(1, 2, 3))
    agreement: NDArray[np.float32] = (left * right).sum(axis=(1, 2, 3)) / np.sqrt(np.maximum(sizes, 1e-6))
    return agreement


def _blurred(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each pixel the mean of the 3 x 3 round it."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    mean: NDArray[np.float32] = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    return mean


class _Joined:
    """Numbers that are joined pair by pair into groups."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def join(self, left: int, right: int) -> None:
        left, right = self._root(left), self._root(right)
        self._parents[max(left, right)] = min(left, right)

    def groups(self) -> list[list[int]]:
        members: dict[int, list[int]] = {}
        for number in range(len(self._parents)):
            members.setdefault(self._root(number), []).append(number)
        return list(members.values())
