"""A report of the runs of protocols: tables as Markdown, LaTeX and CSV, plots, and a short form for a terminal."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from promptmix.errors import DataError, listed
from promptmix.evaluation.results import BenchResult
from promptmix.reporting.bench_rows import LONG_HEADER, long_rows
from promptmix.reporting.bench_runs import ZERO_SHOT, ProtocolRuns, sections
from promptmix.reporting.bench_tables import failed_table, tables_of
from promptmix.reporting.published import published_tables
from promptmix.reporting.tables import as_latex, as_markdown, as_text, csv_text, markdown_text
from promptmix.runtime import write_json, write_text, writing

__all__ = ["ReportFiles", "remove_report", "report_text", "write_report"]

_FORMAT = "promptmix-report-1"
_MANIFEST = "report.json"
_NO_FAILURE: Mapping[str, str] = MappingProxyType({})
_HEADINGS = {
    "few-shot": "Few-shot classification",
    "base-to-new": "Base to new classes",
    "cross-dataset": "Cross-dataset transfer",
    "domain": "Domain generalization",
    "compare": "Comparison",
}


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report is: everything as Markdown and as LaTeX, one row a run and part as CSV, and the plots."""

    markdown: Path
    latex: Path
    csv: Path
    plots: tuple[Path, ...]


def report_text(results: Sequence[BenchResult], baseline: str = ZERO_SHOT, failed: Mapping[str, str] = _NO_FAILURE) -> str:
    """The main tables, for a terminal; their intervals and all other tables are in what :func:`write_report` writes.

    Args:
        baseline: the contender whose numbers are taken from all others, pair by pair.
        failed: why runs failed, by their names.

    Raises:
        DataError: there is no result, or two are of the same run.
        ConfigError: the results are of several backbones, or none is of the baseline.
    """
    protocols = sections(results, baseline, failed)
    tables = [table for runs in protocols for table in tables_of(runs, short=True) if table.main]
    published = [table for runs in protocols for table in published_tables(runs)]
    return "\n\n\n".join(as_text(table) for table in (*tables, *published, *failed_table(failed))) + "\n"


def write_report(
    results: Sequence[BenchResult],
    folder: Path,
    baseline: str = ZERO_SHOT,
    failed: Mapping[str, str] = _NO_FAILURE,
    unfinished: str = "",
) -> ReportFiles:
    """Write tables and plots of some results; an older report there is replaced as a whole, and nothing else is touched.

    Everything is made in a folder beside this one first, so that a failure leaves the older report as it was.

    Args:
        baseline, failed: as for :func:`report_text`.
        unfinished: a sentence that stands before all tables where runs are still to come.

    Raises:
        DataError: there is no result; a file of the report's names is there that is no report's; or the folder cannot be written.
        ConfigError: the results are of several backbones, or none is of the baseline.
    """
    # The plots' library takes half a second to load: not before it is needed.
    from promptmix.reporting.bench_plots import draw_plots

    protocols = sections(results, baseline, failed)
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; a report needs a folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            plots = draw_plots(temporary, protocols)
            write_text(temporary / "report.md", _markdown(protocols, plots, failed, unfinished))
            write_text(temporary / "report.tex", _latex(protocols, failed, unfinished))
            write_text(temporary / "results.csv", csv_text(LONG_HEADER, long_rows(protocols)))
            _replace(folder, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return ReportFiles(
        markdown=folder / "report.md",
        latex=folder / "report.tex",
        csv=folder / "results.csv",
        plots=tuple(folder / name for name in plots),
    )


def remove_report(folder: Path) -> None:
    """Remove the files of the report that is in a folder, and the folder where nothing else is in it."""
    for name in sorted(_own_files(folder), key=lambda name: name == _MANIFEST):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _replace(folder: Path, made: Path) -> None:
    """Put what was made in place of the report that is there."""
    new = sorted(path.name for path in made.iterdir())
    old = _own_files(folder)
    foreign = [name for name in (*new, _MANIFEST) if name not in old and (folder / name).exists()]
    if foreign:
        raise DataError(
            f"{folder} holds files that are no report's: {listed(foreign)}; nothing there is overwritten, choose another folder"
        )
    folder.mkdir(exist_ok=True)
    # Whatever happens from here on, all files of either report are known as a report's.
    write_json(folder / _MANIFEST, {"format": _FORMAT, "files": sorted({*new, *old})})
    for name in new:
        os.replace(made / name, folder / name)
    for name in set(old) - {*new, _MANIFEST}:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / _MANIFEST, {"format": _FORMAT, "files": new})


def _own_files(folder: Path) -> set[str]:
    """Names of the files of the report that is in a folder; none where there is none, or where its list is not to be trusted."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        names = [str(name) for name in manifest["files"]] if manifest["format"] == _FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {_MANIFEST, *names} if names and all(Path(name).name == name for name in names) else set()


def _markdown(protocols: Sequence[ProtocolRuns], plots: Mapping[str, str], failed: Mapping[str, str], unfinished: str) -> str:
    pieces = ["# Report of runs", *filter(None, [unfinished])]
    for runs in protocols:
        pieces += [f"## {_HEADINGS[runs.protocol]}", *(as_markdown(table) for table in tables_of(runs))]
        # Names of plots hold no sign that Markdown would take for something else.
        pieces += [f"![{markdown_text(title)}]({name})" for name, title in plots.items() if name.startswith(f"{runs.protocol}-")]
        if published := published_tables(runs):
            pieces += ["## Published", *(as_markdown(table) for table in published)]
    if failed:
        pieces += ["## Failures", *(as_markdown(table) for table in failed_table(failed))]
    return "\n\n".join(pieces) + "\n"


def _latex(protocols: Sequence[ProtocolRuns], failed: Mapping[str, str], unfinished: str) -> str:
    pieces = [
        "% Tables for \\input; they need no package. Names beyond Latin letters need LuaLaTeX or XeLaTeX.",
        *filter(None, [unfinished]),
    ]
    for runs in protocols:
        pieces += [f"\\section*{{{_HEADINGS[runs.protocol]}}}", *(as_latex(table) for table in tables_of(runs))]
        if published := published_tables(runs):
            pieces += ["\\section*{Published}", *(as_latex(table) for table in published)]
    if failed:
        pieces += ["\\section*{Failures}", *(as_latex(table) for table in failed_table(failed))]
    return "\n\n".join(pieces) + "\n"
