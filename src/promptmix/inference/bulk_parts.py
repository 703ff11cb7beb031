"""Part files of a bulk prediction: each holds what is said of a fixed number of pictures, is written whole or not at all, and can be
read back to see which pictures these were.

    path, class, probability, margin     the picture as its source names it; the answer: the most probable class, or ``none of these``
                                         where the model had better not answer; the probability (0 to 1) of the most probable class,
                                         and how far it is above the second
    top_classes, top_probabilities       Parquet: lists, falling.   CSV: class_1, probability_1, class_2, ...
    experts, expert_weights              the same for the experts that answered; only of models with more than one. CSV: expert_1, ...
    abstained, label_set                 what the rules of the model's calibration say; only where it has them
    labels, label_probabilities          the classes that are on the picture, each judged by itself; only where that was asked for.
                                         Lists; in CSV texts with "; " between them

Pictures that cannot be read stand in ``bad-00000.jsonl``, path and reason, beside the part of the same number.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from promptmix.errors import ConfigError, DataError
from promptmix.evaluation.predictions import Prediction
from promptmix.runtime import atomic_path, write_text

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "FileFormat",
    "PartColumns",
    "bad_path",
    "part_path",
    "paths_in_part",
    "refuse_missing_writer",
    "rows_in_bad",
    "write_bad",
    "write_part",
    "written",
]

FileFormat = Literal["parquet", "csv"]

_MOST_CELLS = 2**18  # names and numbers of a row group, which is in memory as a whole


@dataclass(frozen=True, kw_only=True)
class PartColumns:
    """What a part says of each picture beside its path, class, probability and margin.

    Attributes:
        top: classes a row, at most.
        num_experts: experts that may answer for a picture; 1: there are no columns for them.
        abstained, label_sets, labels: whether it has the columns of these rules.
    """

    top: int
    num_experts: int
    abstained: bool = False
    label_sets: bool = False
    labels: bool = False


def part_path(out: Path, number: int, file_format: FileFormat) -> Path:
    """Where the predictions of a block of pictures are written."""
    return out / f"part-{number:05}.{file_format}"


def bad_path(out: Path, number: int) -> Path:
    """Where those pictures of a block are listed that cannot be read; where there are none there is no such file."""
    return out / f"bad-{number:05}.jsonl"


def written(picture: object) -> str:
    """A picture's name as it is written: bytes of it that are not UTF-8 are spelt out, as no text could hold them."""
    return str(picture).encode("utf-8", "backslashreplace").decode()


def refuse_missing_writer(file_format: FileFormat) -> None:
    """Raise where files of a format cannot be written here.

    Raises:
        ConfigError: the package for it is missing; the message says how to install it.
    """
    if file_format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as problem:
            raise ConfigError(
                'writing Parquet needs a package that is missing; pip install "promptmix[data]", or write --format csv'
            ) from problem


class _Writer(Protocol):
    """Takes rows as they come."""

    def write(self, pictures: Sequence[object], predictions: Sequence[Prediction]) -> None:
        """Append a row a picture."""
        ...


@contextlib.contextmanager
def write_part(path: Path, file_format: FileFormat, columns: PartColumns) -> Iterator[_Writer]:
    """Within the block rows are written beside ``path``, which is there once the block has ended well.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        if file_format == "csv":
            with temporary.open("w", encoding="utf-8", newline="") as text:
                yield _CsvWriter(text, columns)
        else:
            with temporary.open("wb") as file:
                writer = _ParquetWriter(file, columns)
                try:
                    yield writer
                except BaseException:
                    # The file is thrown away; what else may fail while it is closed is of no interest.
                    with contextlib.suppress(Exception):
                        writer.close()
                    raise
                writer.close()


class _CsvWriter:
    def __init__(self, file: Any, columns: PartColumns) -> None:
        self._rows = csv.writer(file)
        self._columns, self._num_experts = columns, columns.num_experts if columns.num_experts > 1 else 0
        head = [f"{what}_{place}" for place in range(1, columns.top + 1) for what in ("class", "probability")]
        head += [f"{what}_{place}" for place in range(1, self._num_experts + 1) for what in ("expert", "weight")]
        head += ["abstained"] * columns.abstained + ["label_set"] * columns.label_sets
        head += ["labels", "label_probabilities"] * columns.labels
        self._rows.writerow(["path", "class", "probability", "margin", *head])

    def write(self, pictures: Sequence[object], predictions: Sequence[Prediction]) -> None:
        for picture, one in zip(pictures, predictions, strict=True):
            row: list[object] = [written(picture), one.answer, one.probability, one.margin]
            row += _flat(one.top, self._columns.top)
            if self._num_experts:
                row += _flat(one.experts, self._num_experts)
            if self._columns.abstained:
                row.append("true" if one.abstained else "false")
            if self._columns.label_sets:
                row.append("; ".join(one.label_set or ()))
            if self._columns.labels:
                labels = one.labels or ()
                row += ["; ".join(name for name, _ in labels), "; ".join(repr(value) for _, value in labels)]
            self._rows.writerow(row)


def _flat(pairs: Sequence[tuple[str, float]], width: int) -> list[object]:
    cells: list[object] = [cell for pair in pairs for cell in pair]
    return cells + [""] * (2 * (width - len(pairs)))


class _ParquetWriter:
    def __init__(self, file: Any, columns: PartColumns) -> None:
        import pyarrow
        from pyarrow import parquet

        names, numbers = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float64())
        fields = [("path", pyarrow.string()), ("class", pyarrow.string()), ("probability", pyarrow.float64())]
        fields += [("margin", pyarrow.float64()), ("top_classes", names), ("top_probabilities", numbers)]
        if columns.num_experts > 1:
            fields += [("experts", names), ("expert_weights", numbers)]
        if columns.abstained:
            fields.append(("abstained", pyarrow.bool_()))
        if columns.label_sets:
            fields.append(("label_set", names))
        if columns.labels:
            fields += [("labels", names), ("label_probabilities", numbers)]
        self._schema: pyarrow.Schema = pyarrow.schema(fields)
        self._file = parquet.ParquetWriter(file, self._schema)
        # Counted in pictures, so that the same pictures make the same row groups, whatever batches they come in.
        self._rows_at_once = max(1, _MOST_CELLS // (4 + 2 * columns.top + 2 * columns.num_experts))
        self._paths: list[str] = []
        self._predictions: list[Prediction] = []

    def write(self, pictures: Sequence[object], predictions: Sequence[Prediction]) -> None:
        self._paths += [written(picture) for picture in pictures]
        self._predictions += predictions
        while len(self._paths) >= self._rows_at_once:
            self._write_group()

    def close(self) -> None:
        if self._paths:
            self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        import pyarrow

        number = self._rows_at_once
        paths, some = self._paths[:number], self._predictions[:number]
        self._paths, self._predictions = self._paths[number:], self._predictions[number:]
        columns: dict[str, list[Any]] = {
            "path": paths,
            "class": [one.answer for one in some],
            "probability": [one.probability for one in some],
            "margin": [one.margin for one in some],
            "top_classes": [[name for name, _ in one.top] for one in some],
            "top_probabilities": [[value for _, value in one.top] for one in some],
            "experts": [[name for name, _ in one.experts] for one in some],
            "expert_weights": [[value for _, value in one.experts] for one in some],
            "abstained": [one.abstained for one in some],
            "label_set": [list(one.label_set or ()) for one in some],
            "labels": [[name for name, _ in one.labels or ()] for one in some],
            "label_probabilities": [[value for _, value in one.labels or ()] for one in some],
        }
        arrays = [pyarrow.array(columns[field.name], field.type) for field in self._schema]
        self._file.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))


def paths_in_part(path: Path, file_format: FileFormat) -> list[str]:
    """The pictures of a part file, in its order.

    Raises:
        DataError: it is damaged.
    """
    try:
        if file_format == "csv":
            with path.open(encoding="utf-8", newline="") as file:
                return [row["path"] for row in csv.DictReader(file, strict=True)]
        from pyarrow import parquet

        names: list[str] = parquet.ParquetFile(path).read(["path"]).column("path").to_pylist()
        return names
    except (OSError, ValueError, KeyError, csv.Error) as problem:  # pyarrow's own errors are of the second kind
        raise DataError(f"{path} is damaged; remove it, and the same command makes it anew") from problem


def write_bad(path: Path, bad: Sequence[tuple[str, str]]) -> None:
    """List pictures that cannot be read, with the reasons; where there are none, no file stays.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    if not bad:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"path": written(name), "reason": written(reason)}) for name, reason in bad]
    write_text(path, "\n".join(lines) + "\n")


def rows_in_bad(path: Path) -> list[tuple[str, str]]:
    """The pictures of a block that could not be read, with the reasons; none where there is no such file.

    Raises:
        DataError: it is damaged.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
        return [(str(row["path"]), str(row["reason"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{path} is damaged; remove it and its part file, and the same command makes them anew") from problem
