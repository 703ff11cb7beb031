"""From what a person asks for to a plan: the data sets, contenders and runs of a protocol, with its defaults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError, DataError, did_you_mean, listed
from promptmix.methods.registry import build_method, method_class
from promptmix.protocols import base_to_new, compare, cross_dataset, domain_generalization, few_shot
from promptmix.protocols.base import Data, Plan, PlannedRun, open_all
from promptmix.protocols.contenders import Contender, read_contenders
from promptmix.protocols.datasets import PICTOGRAMS, DataSource, classes_of, spec_of
from promptmix.reporting.bench_runs import ZERO_SHOT

__all__ = ["PROTOCOLS", "ProtocolRow", "make_plan"]

_logger = logging.getLogger(__name__)

_PlanRuns = Callable[[Mapping[str, DataSource], Mapping[str, Contender], Sequence[int], Sequence[int]], list[PlannedRun]]


@dataclass(frozen=True, kw_only=True)
class ProtocolRow:
    """A protocol by its parts.

    Attributes:
        shots: unless told otherwise.
        source: what is learnt from unless told otherwise.
        targets: of protocols that learn from the first data set and measure on the others: these, where only one is given.
        contenders: the names taken from a set that ships, unless told otherwise; None: all of the set.
        hold_out: share of each class to measure on of pictures without a test part, unless told otherwise; None: it must be told.
    """

    plan_runs: _PlanRuns
    shots: tuple[int, ...] = (16,)
    source: str = PICTOGRAMS
    targets: Callable[[str], tuple[str, ...]] | None = None
    contenders: tuple[str, ...] | None = None
    hold_out: float | None = None


PROTOCOLS: dict[str, ProtocolRow] = {
    "few-shot": ProtocolRow(plan_runs=few_shot.plan_runs, shots=(1, 2, 4, 8, 16)),
    "base-to-new": ProtocolRow(plan_runs=base_to_new.plan_runs),
    "cross-dataset": ProtocolRow(plan_runs=cross_dataset.plan_runs, targets=cross_dataset.default_targets),
    "domain": ProtocolRow(
        plan_runs=domain_generalization.plan_runs,
        source=f"{PICTOGRAMS}:seen",
        targets=domain_generalization.default_targets,
    ),
    "compare": ProtocolRow(plan_runs=few_shot.plan_runs, contenders=compare.CONTENDERS, hold_out=compare.HOLD_OUT),
}


def make_plan(
    protocol: str,
    backbone: Backbone,
    *,
    data: Sequence[str] = (),
    root: str | None = None,
    hold_out: float | None = None,
    methods: Sequence[str] | None = None,
    recipes: str | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    backbone_name: str = "bundled",
    precision: str = "auto",
    overrides: Iterable[str] = (),
    threads: int = 1,
    baseline: str = ZERO_SHOT,
) -> Plan:
    """The plan of a protocol.

    Args:
        data: sources as :class:`~promptmix.protocols.datasets.DataSpec` has them; of protocols with targets the first is learnt from.
        methods, recipes: see :func:`~promptmix.protocols.contenders.read_contenders`; without ``recipes`` the published settings for
            benchmarks, the short ones for the bundled world and people's own pictures.
        threads: of each process.
        baseline: the contender that reports compare all others with; zero-shot always can be, as every run measures it.

    Raises:
        ConfigError, DataError: something that was asked for is not there or cannot be used.
    """
    row = PROTOCOLS[protocol]
    names = list(data) or [row.source]
    if row.targets is not None and len(names) == 1:
        names += row.targets(names[0])
    for what, values in (("--shots", shots or row.shots), ("--seeds", seeds), ("--data", names)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{what} names something twice; give each once")
    share = row.hold_out if hold_out is None else hold_out
    specs = [spec_of(name, root, share, row.targets is not None and place > 0) for place, name in enumerate(names)]
    sources = open_all(specs)
    chosen = recipes or ("bundled" if specs[0].root is None else "field")
    wanted = row.contenders if methods is None and recipes is None else methods
    kind = "few-shot" if protocol == "compare" else protocol
    contenders: dict[str, Contender] = {}
    stands_for: dict[str, str] = {}
    for one in read_contenders(chosen, kind, wanted, overrides):
        try:
            build_method(one.method, _closed_options(one), backbone, ("cat", "dog"))
            templates = one.stands_for(sources)
        except ConfigError as problem:
            if methods is not None:
                raise ConfigError(f"contender {one.label!r}: {problem}") from problem
            # Nobody asked for this one by name.
            _logger.warning("left out %s: %s", one.label, problem)
        else:
            contenders[one.label], stands_for[one.label] = one, templates
    if baseline not in (ZERO_SHOT, *contenders):
        known = dict.fromkeys([ZERO_SHOT, *contenders])
        raise ConfigError(f"--baseline {baseline!r} is no contender of this bench{did_you_mean(baseline, known)}")
    runs = row.plan_runs(sources, contenders, shots or row.shots, seeds)
    _refuse_parts_without_pictures(sources, runs)
    return Plan(
        protocol=protocol,
        backbone=backbone_name,
        backbone_key=backbone.features_key,
        precision=precision,
        data={name: Data(spec=spec, listing=source.listing) for (name, source), spec in zip(sources.items(), specs, strict=True)},
        contenders=contenders,
        stands_for=stands_for,
        threads=threads,
        runs=tuple(runs),
    )


def _refuse_parts_without_pictures(sources: Mapping[str, DataSource], runs: Sequence[PlannedRun]) -> None:
    for part in dict.fromkeys(part for run in runs for part in run.parts):
        source = sources[part.data]
        places = classes_of(source, part.classes)
        if not any(source.test_counts[place] for place in places):
            names = listed(source.class_names[place] for place in places)
            raise DataError(f"{part.name} of {part.data} has no test picture at all ({names}); add pictures of these classes")


def _closed_options(contender: Contender) -> dict[str, Any]:
    """The options of a contender, with the first choice where they leave something open."""
    kind = method_class(contender.method)
    candidates = kind.open_options(kind.parse_options(contender.options))
    return {**contender.options, **(candidates[0] if candidates else {})}
