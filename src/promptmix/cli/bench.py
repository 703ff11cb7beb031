"""promptmix bench: the options of its verbs. What they do is in bench_verbs.py, imported when one is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from promptmix.cli.guard import guarded

__all__ = ["bench_app"]

bench_app = typer.Typer(
    help="Compare methods by the protocols of the field, on bundled drawings, benchmarks or your own pictures; a stopped bench goes on.",
    no_args_is_help=True,
)

Sources = Annotated[list[str] | None, typer.Argument(metavar="DATA", help="The same as --data.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="'pictograms' (bundled), a benchmark's name with --root, or your pictures as 'promptmix train' takes them; repeatable."
    ),
]
Root = Annotated[str | None, typer.Option(help="Folder that holds the benchmarks' folders.")]
HoldOut = Annotated[
    float | None,
    typer.Option(help="Share of each class to measure on, drawn anew for each seed, of pictures without a test part."),
]
Out = Annotated[Path | None, typer.Option(help="Folder for plan, runs and report; else bench-PROTOCOL, here.")]
Methods = Annotated[str | None, typer.Option(help="Contenders by name, with commas: zero-shot,coop,mine.yaml.")]
Recipes = Annotated[
    str | None,
    typer.Option(help="Settings of the contenders: 'field' (published), 'bundled' (short), or a folder of YAML files."),
]
Shots = Annotated[str | None, typer.Option(help="Pictures of each class to learn from, with commas: 1,2,4,8,16.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas.")]
BackboneName = Annotated[
    str, typer.Option(help="'bundled' (drawings, not photographs), a folder, a .pt file, or owner/name on the hub.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes side by side; else one a core, as memory allows.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="What the backbone calculates in: auto (fp32), fp32, bf16 or fp16.")]
Baseline = Annotated[str, typer.Option(help="The contender that all others are compared with.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs and estimate what they cost; write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away the bench that is there.")]
Engine = Annotated[str, typer.Option(help="local, or ray: the runs are spread over a cluster.")]
RayAddress = Annotated[str | None, typer.Option(help="Address of a Ray cluster; else RAY_ADDRESS, else one is started here.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any option of all contenders that have it: recipe.epochs=5, method.top_k=3.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

VERBS = {
    "few-shot": "Learn from 1, 2, 4, 8 and 16 pictures of every class; measure on the test pictures.",
    "base-to-new": "Learn half of the classes; measure on these, on the other half, and on both together.",
    "cross-dataset": "Learn from the first data set; measure on the classes of the others, known by name alone.",
    "domain": "Learn from the first data set; measure on the same classes in the others.",
    "compare": "Say which method suits your pictures, and how sure that is.",
}
_EXAMPLES = {
    "few-shot": "promptmix bench few-shot --methods zero-shot,coop --shots 1,4 --out few-shot",
    "base-to-new": "promptmix bench base-to-new --data dtd --data eurosat --root benchmarks --backbone FOLDER --out base-to-new",
    "cross-dataset": "promptmix bench cross-dataset --data photos --data other --hold-out 0.3 --out cross",
    "domain": "promptmix bench domain --out domain",
    "compare": "promptmix bench compare photos",
}


def _verb(protocol: str) -> Callable[..., None]:
    def verb(
        sources: Sources = None,
        data: Data = None,
        root: Root = None,
        hold_out: HoldOut = None,
        out: Out = None,
        methods: Methods = None,
        recipes: Recipes = None,
        shots: Shots = None,
        seeds: Seeds = "1,2,3",
        backbone: BackboneName = "bundled",
        jobs: Jobs = None,
        device: Device = "auto",
        precision: Precision = "auto",
        baseline: Baseline = "zero-shot",
        dry_run: DryRun = False,
        overwrite: Overwrite = False,
        settings: Settings = None,
        engine: Engine = "local",
        ray_address: RayAddress = None,
        json_output: Json = False,
    ) -> None:
        if ray_address is not None and engine != "ray":
            raise typer.BadParameter("--ray-address is where --engine ray finds its cluster; give both")
        if hold_out is not None and not 0 < hold_out < 1:
            raise typer.BadParameter(f"--hold-out {hold_out} is not a share; give a number between 0 and 1, such as 0.3")
        from promptmix.cli import bench_verbs

        bench_verbs.bench(
            protocol,
            data=[*(sources or []), *(data or [])],
            root=root,
            hold_out=hold_out,
            out=Path(f"bench-{protocol}") if out is None else out,
            methods=None if methods is None else [name.strip() for name in methods.split(",") if name.strip()],
            recipes=recipes,
            shots=None if shots is None else _numbers("--shots", shots, 1),
            seeds=_numbers("--seeds", seeds, 0),
            backbone_name=backbone,
            jobs=jobs,
            device=device,
            precision=precision,
            baseline=baseline,
            dry_run=dry_run,
            overwrite=overwrite,
            settings=settings or [],
            engine=engine,
            ray_address=ray_address,
            json_output=json_output,
        )

    verb.__doc__ = VERBS[protocol]
    return verb


for _protocol, _example in _EXAMPLES.items():
    bench_app.command(_protocol, epilog=f"Example: {_example}")(guarded(_verb(_protocol)))


@bench_app.command(epilog="Example: promptmix bench report few-shot")
@guarded
def report(
    out: Annotated[Path, typer.Argument(help="Folder of a bench.")], baseline: Baseline = "zero-shot", json_output: Json = False
) -> None:
    """Make the report of a bench anew from its result files, finished or not."""
    from promptmix.cli import bench_verbs

    bench_verbs.report(out, baseline, json_output)


def _numbers(option: str, text: str, least: int) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least or max(numbers) >= 2**63:
        raise typer.BadParameter(f"{option} {text!r}: give whole numbers, {least} to 2^63-1, with commas between them")
    return numbers
