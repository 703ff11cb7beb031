"""What a protocol asks for: the list of its runs, and the plan file that says so before the first of them begins."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from promptmix.config import StrictModel
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import DataSource, DataSpec, open_data
from promptmix.reporting.bench_report import remove_report
from promptmix.runtime import short_hash, write_text, writing

try:
    import fcntl
except ImportError:  # only POSIX has it
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Classes",
    "Data",
    "Part",
    "Plan",
    "PlannedRun",
    "alone_in",
    "open_all",
    "planned_run_ids",
    "run_id",
    "runs_of",
    "start_plan",
]

Classes = Literal["all", "base", "new"]

_LONGEST_PIECE = 60  # letters of a name in the name of a run: few file systems take more than 255 in all
_LOCK = ".lock"
_SAYS_WHOSE_RUN = ("run.json", "result.json", "failed.json")
_OWN_FILES = (*_SAYS_WHOSE_RUN, "log.jsonl", "checkpoint.safetensors")
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Data(StrictModel):
    """A data set of a plan: where it comes from, and the hash of the listing that was there when the plan was made."""

    spec: DataSpec
    listing: str


class Part(StrictModel):
    """Pictures that a run is measured on: those of some classes of a data set, among the names of these classes."""

    name: str
    data: str
    classes: Classes = "all"


class PlannedRun(StrictModel):
    """One contender that learns from one data set with one number of shots and one seed, and what it is measured on then.

    Attributes:
        run_id: its folder below ``runs/``.
        data: name of the data set in the plan; ``classes``: which of its classes are learnt.
        contender: label of the contender in the plan.
        shots: None where the contender learns nothing, or learns from all pictures.
    """

    run_id: str
    data: str
    classes: Classes = "all"
    contender: str
    shots: int | None = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    parts: tuple[Part, ...]


class Plan(StrictModel):
    """All runs of a protocol, in order, and everything that their results depend on.

    Attributes:
        backbone_key: of its weights, its pre-processing and its precision.
        stands_for: for each contender, a hash of what its options name but do not hold, such as the templates in the file of a bank.
        threads: of each process. Sums are added up in an order that depends on it, so those of the first start count ever after.
    """

    format: Literal["promptmix-plan-2"] = "promptmix-plan-2"
    protocol: str
    backbone: str
    backbone_key: str
    precision: str
    data: dict[str, Data]
    contenders: dict[str, Contender]
    stands_for: dict[str, str]
    threads: int = Field(ge=1)
    runs: tuple[PlannedRun, ...]

    @model_validator(mode="after")
    def _every_run_has_a_folder_of_its_own(self) -> Plan:
        seen: set[str] = set()
        for run in self.runs:
            # Some file systems take capital and small letters for the same.
            if run.run_id.casefold() in seen:
                raise ValueError(f"two runs are called {run.run_id!r}, so that one would overwrite the other; rename one")
            seen.add(run.run_id.casefold())
        return self

    def run_key(self, run: PlannedRun) -> str:
        """Hash of all that a run's result depends on, besides the contents of the pictures."""
        names = dict.fromkeys([run.data, *(part.data for part in run.parts)])
        return short_hash(
            self.protocol,
            self.backbone_key,
            run.model_dump_json(),
            self.contenders[run.contender].model_dump_json(),
            self.stands_for[run.contender],
            *(f"{name} {self.data[name].listing} {self.data[name].spec.hold_out}" for name in names),
        )


def open_all(specs: Sequence[DataSpec]) -> dict[str, DataSource]:
    """The data sets by the names that tables and folders use, listed anew.

    Raises:
        ConfigError, DataError: one of them cannot be used, or two have the same name.
    """
    found: dict[str, DataSource] = {}
    open_data.cache_clear()
    for spec in specs:
        source = open_data(spec)
        if source.name in found:
            raise ConfigError(f"two data sets are called {source.name!r}; rename the folder of one")
        found[source.name] = source
    return found


def run_id(data: str, contender: str, shots: int | None, seed: int) -> str:
    """The name of a run that people can read, fit for a folder, and no other run's.

    A name that a folder cannot have as it stands, or that differs from another in capital letters only, is followed by a hash of it.
    """
    count = [] if shots is None else [f"{shots}-shot{'s' if shots > 1 else ''}"]
    return "--".join([_fit_for_a_folder(data), _fit_for_a_folder(contender), *count, f"seed-{seed}"])


def _fit_for_a_folder(name: str) -> str:
    """A name in small Latin letters, digits, dots and single hyphens; with a hash behind a tilde where that is not the name itself."""
    plain = re.sub("[^a-z0-9._]+", "-", name.casefold()).strip("-.")[:_LONGEST_PIECE].strip("-.")
    return plain if plain == name else f"{plain or 'unnamed'}~{short_hash(name)[:8]}"


def runs_of(
    data: str,
    contenders: Mapping[str, Contender],
    shots: Sequence[int],
    seeds: Sequence[int],
    parts: Sequence[Part],
    *,
    classes: Classes = "all",
) -> list[PlannedRun]:
    """Every contender with every number of shots and every seed on one data set. One that learns nothing runs once a seed."""
    return [
        PlannedRun(
            run_id=run_id(data, label, count, seed),
            data=data,
            classes=classes,
            contender=label,
            shots=count,
            seed=seed,
            parts=tuple(parts),
        )
        for label, contender in contenders.items()
        for count in ([None] if contender.learns == "nothing" else shots)
        for seed in seeds
    ]


def start_plan(out: Path, plan: Plan, overwrite: bool) -> Plan:
    """Write the plan into its folder, or find the same plan there, whose runs then go on; returns the plan to do.

    Raises:
        DataError: the folder holds something else than a plan, or cannot be written.
        ConfigError: it holds another plan.
        CheckpointError: the plan there is damaged.
    """
    path = out / "plan.json"
    _refuse_others(out)
    if path.is_file():
        there = None if overwrite else _read_plan(path)
        if there is not None and there == plan.model_copy(update={"threads": there.threads}):
            return there
        if there is not None:
            raise ConfigError(
                f"{out} holds another plan ({_difference(there, plan)}); choose another folder, or pass --overwrite to throw away"
                " what is there"
            )
        with writing(out):
            _remove_runs(out / "runs")
            remove_report(out / "report")
    write_text(path, plan.model_dump_json(indent=2) + "\n")
    return plan


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Within the block no other bench works in the folder, which is made where it is missing. The system lets go of the lock when the
    process ends, however that comes; where there are no such locks there is none.

    Raises:
        DataError: another bench is at work there, the folder is not a bench's, or it cannot be written.
    """
    _refuse_others(out)
    if fcntl is None:
        yield
        return
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        # Nothing is ever written into it, so that a file of this name that is a person's stays as it is.
        handle = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise DataError(f"another bench is at work in {out}; wait for it or choose another folder") from problem
        except OSError as problem:
            if problem.errno not in _NO_LOCKS_HERE:
                raise
        yield
    finally:
        os.close(handle)


def planned_run_ids(out: Path) -> list[str] | None:
    """The names of the runs of the plan in a folder, in its order, whatever its version; None where it cannot be read."""
    said = _said_by(out / "plan.json", "promptmix-plan-")
    try:
        return None if said is None else [str(run["run_id"]) for run in said["runs"]]
    except (KeyError, TypeError):
        return None


def _refuse_others(out: Path) -> None:
    """Raise where a folder holds something, but no plan of a bench."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder with --out")
    is_used = out.is_dir() and any(entry.name != _LOCK for entry in out.iterdir())
    if is_used and _said_by(out / "plan.json", "promptmix-plan-") is None:
        raise DataError(f"{out} holds files that are no bench's; nothing there is overwritten, choose another folder with --out")


def _remove_runs(runs: Path) -> None:
    """Remove what runs have written, and folders that are empty then; what lies beside it stays."""
    if runs.is_symlink() or not runs.is_dir():
        return
    for folder in [entry for entry in runs.iterdir() if entry.is_dir() and not entry.is_symlink()]:
        if any(_said_by(folder / name, "promptmix-bench-") is not None for name in _SAYS_WHOSE_RUN):
            # Of a write that was cut off a hidden file is left, which is named after what it was to become.
            unfinished = [path for name in _OWN_FILES for path in folder.glob(f".{name}.*.tmp")]
            for path in (*(folder / name for name in _OWN_FILES), *unfinished):
                path.unlink(missing_ok=True)
        _remove_if_empty(folder)
    _remove_if_empty(runs)


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _said_by(path: Path, kind: str) -> dict[str, Any] | None:
    """What a JSON file says whose ``format`` begins with ``kind``; None where it is missing, damaged or of another kind."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and str(said.get("format")).startswith(kind) else None


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise CheckpointError(f"{path} is damaged or of another version; choose another folder, or pass --overwrite") from problem


def _difference(there: Plan, plan: Plan) -> str:
    """What differs between two plans, in a few words."""
    old, new = (json.loads(one.model_dump_json()) for one in (there, plan))
    for name in ("protocol", "backbone", "precision"):
        if old[name] != new[name]:
            return f"its {name} is {old[name]}, not {new[name]}"
    if old["backbone_key"] != new["backbone_key"]:
        return f"the files of backbone {plan.backbone} have changed since"
    for kind, what in (("data", "data sets"), ("contenders", "contenders")):
        if old[kind].keys() != new[kind].keys():
            return f"its {what} are {', '.join(old[kind])}, not {', '.join(new[kind])}"
    for name in old["data"]:
        if old["data"][name] != new["data"][name]:
            return f"the pictures of {name} were others"
    for name in old["contenders"]:
        if old["contenders"][name] != new["contenders"][name]:
            return f"the options of {name} were others"
        if old["stands_for"].get(name) != new["stands_for"][name]:
            return f"the templates that {name} takes from a file were others"
    return f"{len(there.runs)} runs of other shots, seeds or parts, where {len(plan.runs)} are asked for"
