"""What a bulk prediction is: a file in its folder, so that nothing else is ever mixed in, and a second start knows what to go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from promptmix.config import StrictModel
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.inference.bulk_parts import FileFormat
from promptmix.model_folder import model_path
from promptmix.runtime import short_hash, write_text, writing

__all__ = ["LISTS", "BulkJob", "model_key", "read_job", "refuse_changed_model", "start_job"]

_JOB = "job.json"
_BEGUN_JOB = f".{_JOB}.*.tmp"
_MODEL_FILES = ("config.json", "model.safetensors", "class_features.safetensors")
_OWN_FILES = (
    _JOB,
    "summary*.json",
    "part-*.parquet",
    "part-*.csv",
    "bad-*.jsonl",
    ".part-*.tmp",
    ".bad-*.tmp",
    ".summary*.json.*.tmp",
    _BEGUN_JOB,
)

LISTS = ".blocks"  # folders of what a cluster still has to do


class BulkJob(StrictModel):
    """What the files of a bulk prediction depend on.

    Attributes:
        model: key of the model's files.
        sources: as they were given; ``source_state`` is a hash of the files that hold their pictures, where these are not files of their own.
        image_column: of tables and data sets.
        top: classes a picture.
        rows_per_file: pictures of a block; those of them that cannot be read are no rows of its part.
        multi_label: whether all classes that are on a picture are told, each judged by itself.
    """

    format: Literal["promptmix-bulk-prediction-1"] = "promptmix-bulk-prediction-1"
    model: str
    precision: str
    sources: tuple[str, ...]
    source_state: str
    image_column: str | None
    file_format: FileFormat
    top: int = Field(ge=1)
    rows_per_file: int = Field(ge=1)
    multi_label: bool = False


def model_key(folder: Path) -> str:
    """Key of the files of a model or run folder.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    files = [model_path(folder) / name for name in _MODEL_FILES]
    try:
        return short_hash(*(file.read_bytes() for file in files))
    except OSError as problem:
        raise CheckpointError(f"{folder} cannot be read: {problem}; give a folder that promptmix train has written") from problem


def refuse_changed_model(folder: Path, job: BulkJob) -> None:
    """Raise where the model that was read is no longer the one the job was started with.

    Raises:
        CheckpointError: its classes or its calibration were changed, or it was trained anew; or it cannot be read.
    """
    if model_key(folder) != job.model:
        raise CheckpointError(
            f"{folder} was changed while the job was under way; give another folder to write to, or pass --overwrite"
        )


def start_job(out: Path, job: BulkJob, *, overwrite: bool = False) -> None:
    """Write what the job is into its folder, or find the same job there, which then goes on.

    Several machines may start the same job in one folder at once: without ``overwrite`` nothing that is there is touched.

    Raises:
        ConfigError: the folder holds another job.
        DataError: it holds something else, or cannot be written.
        CheckpointError: the file that says what the job is, is damaged.
    """
    path = out / _JOB
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder with --out")
    # Another machine may be writing what the job is at this moment.
    is_used = out.is_dir() and any(not entry.match(_BEGUN_JOB) for entry in out.iterdir())
    if is_used and not _is_job(path):
        raise DataError(f"{out} holds files that are no bulk prediction's; nothing there is overwritten, choose another folder")
    if is_used and not overwrite:
        there = read_job(out)
        if there != job:
            raise ConfigError(
                f"{out} holds another job ({_difference(there, job)}); choose another folder, or pass --overwrite to throw away what is there"
            )
        return
    if is_used:
        _throw_away(out)
    write_text(path, job.model_dump_json(indent=2) + "\n")


def _throw_away(out: Path) -> None:
    with writing(out):
        for pattern in _OWN_FILES:
            for file in out.glob(pattern):
                file.unlink(missing_ok=True)
        for folder in out.glob(f"{LISTS}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def read_job(out: Path) -> BulkJob:
    """The job in a folder.

    Raises:
        CheckpointError: there is none, or the file that says what it is, is damaged.
    """
    path = out / _JOB
    try:
        return BulkJob.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise CheckpointError(
            f"{path} is missing, damaged or of another version; choose another folder, or pass --overwrite"
        ) from problem


def _is_job(path: Path) -> bool:
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and str(said.get("format")).startswith("promptmix-bulk-prediction-")


def _difference(there: BulkJob, job: BulkJob) -> str:
    old, new = there.model_dump(), job.model_dump()
    if old["model"] != new["model"]:
        return "of another model, or of this one before its classes were changed"
    for name, what in (("sources", "SOURCE"), ("file_format", "--format"), ("rows_per_file", "--rows-per-file")):
        if old[name] != new[name]:
            return f"with {what} {_shown(old[name])}, not {_shown(new[name])}"
    if old["source_state"] != new["source_state"]:
        return "of the same sources, which have changed since"
    if old["multi_label"] != new["multi_label"]:
        return f"with{'' if old['multi_label'] else 'out'} --multi-label"
    name = next(name for name in old if old[name] != new[name])
    return f"with --{name.replace('_', '-')} {_shown(old[name])}, not {_shown(new[name])}"


def _shown(value: Any) -> str:
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
