"""Averages that papers give for the field's eleven data sets, to hold own ones against; nothing here was measured by this package."""

from __future__ import annotations

from dataclasses import dataclass

from promptmix.reporting.bench_cells import row_of, shots_in_words
from promptmix.reporting.bench_runs import ProtocolRuns
from promptmix.reporting.tables import Table

__all__ = [
    "PUBLISHED_BASE_TO_NEW",
    "PUBLISHED_FEW_SHOT",
    "PublishedBaseToNew",
    "PublishedFewShot",
    "is_benchmark",
    "published_tables",
]


@dataclass(frozen=True, kw_only=True)
class PublishedBaseToNew:
    """Accuracies in per cent with CLIP ViT-B/16 and 16 shots, averages of the eleven data sets.

    Attributes:
        harmonic_mean: of the two averages.
        arxiv: the paper that describes the method.
    """

    method: str
    base: float
    new: float
    harmonic_mean: float
    arxiv: str


@dataclass(frozen=True, kw_only=True)
class PublishedFewShot:
    """Accuracies in per cent with CLIP ViT-B/16, averages of the eleven data sets, by the number of shots."""

    method: str
    by_shots: dict[int, float]
    arxiv: str


PUBLISHED_BASE_TO_NEW = (
    PublishedBaseToNew(method="CLIP", base=69.34, new=74.22, harmonic_mean=71.70, arxiv="2103.00020"),
    PublishedBaseToNew(method="CoOp", base=82.69, new=63.22, harmonic_mean=71.66, arxiv="2109.01134"),
    PublishedBaseToNew(method="CoCoOp", base=80.47, new=71.69, harmonic_mean=75.83, arxiv="2203.05557"),
    PublishedBaseToNew(method="ProGrad", base=82.48, new=70.75, harmonic_mean=76.16, arxiv="2205.14865"),
    PublishedBaseToNew(method="KgCoOp", base=80.73, new=73.60, harmonic_mean=77.00, arxiv="2303.13283"),
    PublishedBaseToNew(method="MaPLe", base=82.28, new=75.14, harmonic_mean=78.55, arxiv="2210.03117"),
    PublishedBaseToNew(method="LASP", base=82.70, new=74.90, harmonic_mean=78.61, arxiv="2210.01115"),
    PublishedBaseToNew(method="PromptSRC", base=84.26, new=76.10, harmonic_mean=79.97, arxiv="2307.06948"),
)

PUBLISHED_FEW_SHOT = (
    PublishedFewShot(method="CoOp", by_shots={1: 68.1, 2: 70.1, 4: 73.6, 8: 76.5, 16: 79.0}, arxiv="2109.01134"),
    PublishedFewShot(method="Tip-Adapter-F", by_shots={1: 70.6, 2: 73.1, 4: 75.8, 8: 78.5, 16: 81.2}, arxiv="2207.09519"),
    PublishedFewShot(method="CLIP-LoRA", by_shots={1: 72.2, 2: 75.4, 4: 77.3, 8: 80.1, 16: 82.9}, arxiv="2405.18541"),
)

_BENCHMARKS = frozenset(
    {
        "imagenet",
        "caltech101",
        "oxfordpets",
        "stanfordcars",
        "oxfordflowers",
        "flowers102",
        "food101",
        "fgvcaircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    }
)


def is_benchmark(dataset: str) -> bool:
    """Whether a data set is one of the eleven, however its name is written: ``OxfordPets``, ``oxford_pets``, ``oxford-pets``."""
    return "".join(character for character in dataset.casefold() if character.isalnum()) in _BENCHMARKS


def published_tables(runs: ProtocolRuns) -> list[Table]:
    """What papers report for a protocol, where one of the data sets is of the field's eleven."""
    if not any(is_benchmark(dataset) for dataset in runs.datasets):
        return []
    above = ("Published, averages of 11 data sets on ViT-B/16, not measured here; arXiv: the paper that describes the method.",)
    if runs.protocol == "base-to-new":
        return [
            Table(
                title="Published: base to new, 16 shots",
                above=above,
                header=("method", "base", "new", "H of the averages", "arXiv"),
                rows=tuple(
                    row_of(one.method, *(f"{share:.2f}" for share in (one.base, one.new, one.harmonic_mean)), one.arxiv)
                    for one in PUBLISHED_BASE_TO_NEW
                ),
            )
        ]
    if runs.protocol == "few-shot":
        columns = list(PUBLISHED_FEW_SHOT[0].by_shots)
        return [
            Table(
                title="Published: few-shot accuracy",
                above=above,
                header=("method", *(shots_in_words(shots) for shots in columns), "arXiv"),
                rows=tuple(
                    row_of(one.method, *(f"{one.by_shots[shots]:.1f}" for shots in columns), one.arxiv)
                    for one in PUBLISHED_FEW_SHOT
                ),
            )
        ]
    return []
