"""The command line: verbs and their options. Each verb's work is in its own file, imported when it is called.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad config, 4 bad or missing data, 5 backbone or model problem, 6 out of memory,
7 another of several ranks is gone, 130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import promptmix
from promptmix.cli.bench import bench_app
from promptmix.cli.classes import classes_app
from promptmix.cli.data import data_app
from promptmix.cli.guard import guarded
from promptmix.cli.options import (
    SOURCES,
    Abstain,
    BackboneOption,
    Cache,
    Classes,
    Device,
    ImageColumn,
    Json,
    LabelColumn,
    LabelSets,
    Precision,
    SkipBad,
)

__all__ = ["app", "run"]

app = typer.Typer(
    name="promptmix",
    help="Adapt a frozen vision-language model to your own picture classes, by learning a mixture of prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(classes_app, name="classes")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


@app.command(epilog="Example: promptmix demo --out promptmix-demo")
@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write tables, plots, pictures and the model to.")] = Path("promptmix-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo that is there.")] = False,
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Train, compare and draw on bundled parts: offline, under a minute."""
    from promptmix.cli import demo as verb

    verb.demo(out, overwrite, cache, json_output)


@app.command(epilog="Example: promptmix train photos/ --out model --shots 16")
@guarded
def train(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Option(help="Run folder to write; the model is in its model/.")],
    test: Annotated[
        str | None,
        typer.Option(help="Test pictures, as SOURCE; without it those of SOURCE's test part, or some that are held out."),
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    split: Annotated[
        Path | None, typer.Option(help="Split file of 'promptmix data split': who of SOURCE trains and who tests.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with method, options and recipe; see recipes/.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="mocoop (the default), promptmix, coop, linear-probe, tip-adapter ...: docs/methods.md has them all."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="'bundled' (the default: drawings, not photographs), a folder or .pt file with a CLIP or SigLIP, or owner/name[@revision] on the hub."
        ),
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Pictures of each class to learn from; the rest is measured on.")] = None,
    hold_out: Annotated[float, typer.Option(help="Share held out to measure on, without --shots and --test.")] = 0.2,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice; 1 unless told otherwise.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.")] = None,
    more_classes: Annotated[
        list[str] | None,
        typer.Option("--more-class", help="A class name without pictures, for method.text_classes=all; repeatable."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any option: method.top_k=3, recipe.rate=0.01.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run; where there is none, start one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run that is there.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Calibrate the probabilities on left-out shots; takes five more short trainings.")
    ] = False,
    abstain: Abstain = None,
    label_sets: LabelSets = None,
    log_to: Annotated[
        list[str] | None, typer.Option("--log-to", help="Also tell tensorboard, wandb or mlflow; repeatable, or with commas.")
    ] = None,
    skip_bad: SkipBad = False,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda or mps.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="What the backbone calculates in: auto (the default: fp32), fp32, bf16 or fp16.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory that training may take, such as 8GB: fewer prompts are encoded at a time then.")
    ] = None,
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Learn from labelled pictures, measure beside zero-shot, save a model."""
    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a run and --overwrite throws it away; give one of them")
    from promptmix.cli import train as verb

    verb.train(
        source=source,
        out=out,
        test=test,
        image_column=image_column,
        label_column=label_column,
        classes=classes,
        split_file=split,
        config_file=config,
        method=method,
        backbone=backbone,
        shots=shots,
        hold_out=hold_out,
        seed=seed,
        epochs=epochs,
        more_classes=more_classes or [],
        settings=settings or [],
        resume=resume,
        overwrite=overwrite,
        calibrate=calibrate,
        abstain=abstain,
        label_sets=label_sets,
        log_to=log_to,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        max_memory=max_memory,
        cache=cache,
        json_output=json_output,
    )


@app.command("eval", epilog="Example: promptmix eval model photos/test")
@guarded
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model or run folder, or hf://owner/name[@revision] on the hub.")],
    source: Annotated[str, typer.Argument(help=SOURCES)],
    part: Annotated[
        str | None, typer.Option(help="train, val or test of a source that has parts; test unless told otherwise.")
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    backbone: BackboneOption = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Measure a model on labelled pictures, beside zero-shot on the same pictures."""
    from promptmix.cli import evaluate as verb

    verb.evaluate(
        model, source, part, image_column, label_column, classes, backbone, skip_bad, device, precision, cache, json_output
    )


@app.command(epilog="Example: promptmix calibrate run --abstain precision=0.95 --label-sets 0.9")
@guarded
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    source: Annotated[
        str | None,
        typer.Argument(help="Labelled pictures it did not learn from; without them the left-out shots of train --calibrate."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="train, val or test of a source that has parts; val where there is one, else test.")
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    abstain: Abstain = None,
    label_sets: LabelSets = None,
    multi_label: Annotated[
        str | None, typer.Option(help="What thresholds of single classes are chosen for: f1 (the default) or precision=0.9.")
    ] = None,
    temperature: Annotated[
        str, typer.Option(help="accuracy: the mean probability is the accuracy; likelihood: the labels are most likely.")
    ] = "accuracy",
    remove: Annotated[bool, typer.Option("--remove", help="Forget the calibration.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the halves of SOURCE.")] = 1,
    backbone: BackboneOption = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Fit probabilities one can trust, 'none of these' and label sets, and store them in the model."""
    if remove and (source or part or abstain or label_sets or multi_label):
        raise typer.BadParameter("--remove forgets the calibration, and fits none; give it alone")
    from promptmix.cli import calibrate as verb

    verb.calibrate(
        folder=model,
        source=source,
        part=part,
        image_column=image_column,
        label_column=label_column,
        classes=classes,
        abstain=abstain,
        label_sets=label_sets,
        multi_label=multi_label,
        temperature=temperature,
        remove=remove,
        seed=seed,
        backbone=backbone,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        cache=cache,
        json_output=json_output,
    )


@app.command(epilog="Example: promptmix predict model new/*.jpg --csv")
@guarded
def predict(
    model: Annotated[
        Path, typer.Argument(help="Model or run folder, hf://owner/name[@revision], or a .onnx file of promptmix export.")
    ],
    sources: Annotated[list[str], typer.Argument(help="Pictures, patterns, folders, tables, .tar files, data sets.")],
    image_column: ImageColumn = None,
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Classes to list in JSON.")] = 5,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Say all classes that are on a picture, each by itself, perhaps none.")
    ] = False,
    backbone: BackboneOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cache: Annotated[
        bool | None, typer.Option("--cache/--no-cache", help="Keep image features on disk (not with --out unless you say so).")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a picture on stdout; with --out the summary.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for part files instead of stdout; for millions of pictures. A stopped job goes on."),
    ] = None,
    file_format: Annotated[str | None, typer.Option("--format", help="parquet (the default) or csv, of the part files.")] = None,
    rows_per_file: Annotated[int | None, typer.Option(min=1, help="Pictures a part file; 10000 unless told otherwise.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: the i-th of n machines that share the part files, from 1.")] = None,
    engine: Annotated[str | None, typer.Option(help="local (the default), or ray: the workers of a cluster.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster; else RAY_ADDRESS, else one is started here.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the part files of another job that are there.")
    ] = False,
) -> None:
    """Say what is on pictures: class, probability, and the prompts that answered."""
    if out is not None:
        if csv_output:
            raise typer.BadParameter("--csv prints on stdout; with --out write --format csv")
        if model.suffix.lower() == ".onnx":
            raise typer.BadParameter("--out writes part files of a model folder; an exported model prints on stdout")
        from promptmix.cli import predict_bulk

        predict_bulk.predict_bulk(
            model,
            sources,
            out,
            image_column=image_column,
            file_format=file_format,
            top=top,
            multi_label=multi_label,
            rows_per_file=rows_per_file,
            shard=shard,
            engine=engine or "local",
            ray_address=ray_address,
            overwrite=overwrite,
            backbone=backbone,
            device=device,
            precision=precision,
            cache=bool(cache),
            json_output=json_output,
        )
        return
    bulk_options = {
        "--format": file_format,
        "--rows-per-file": rows_per_file,
        "--shard": shard,
        "--engine": engine,
        "--ray-address": ray_address,
        "--overwrite": overwrite or None,
    }
    for name, value in bulk_options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} is about part files; say with --out where to write them")
    if csv_output and json_output:
        raise typer.BadParameter("stdout is either --csv or --json; give one of them")
    from promptmix.cli import predict as verb

    verb.predict(
        model, sources, image_column, csv_output, top, multi_label, backbone, device, precision, cache is not False, json_output
    )


@app.command(epilog="Example: promptmix serve model --port 8000; promptmix serve model.onnx")
@guarded
def serve(
    models: Annotated[
        list[str], typer.Argument(help="Model or run folders, hf://owner/name, exported models (.onnx); name=PATH gives a name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    engine: Annotated[str, typer.Option(help="What runs them: torch, onnx, or auto by what each path is.")] = "auto",
    backbone: BackboneOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    allow_class_changes: Annotated[
        bool, typer.Option("--allow-class-changes", help="Let those with the token in PROMPTMIX_SERVE_TOKEN change classes.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Pictures the model is shown at once.")] = 32,
    max_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a batch waits for more pictures.")] = 5.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Pictures accepted and not yet answered; more get 429.")] = 256,
    time_limit: Annotated[float, typer.Option(help="Seconds for a request.")] = 30.0,
    stop_limit: Annotated[float, typer.Option(help="Seconds to answer what was accepted when told to stop.")] = 20.0,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Of a request's body.")] = 33_554_432,
    max_picture_bytes: Annotated[int, typer.Option(min=1, help="Of a picture's file.")] = 16_777_216,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of a picture.")] = 40_000_000,
    max_pictures: Annotated[int, typer.Option(min=1, help="In a request.")] = 32,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures from public http and https addresses that requests name.")
    ] = False,
    url_time_limit: Annotated[float, typer.Option(help="Seconds to fetch a picture.")] = 10.0,
    url_port: Annotated[
        list[int] | None,
        typer.Option(min=1, max=65535, help="Port that may be asked; 80 and 443 unless told otherwise. Repeatable."),
    ] = None,
) -> None:
    """Answer over HTTP, with a page to try it in a browser."""
    from promptmix.cli import serve as verb

    limits = {
        "max_batch": max_batch,
        "max_wait": max_wait,
        "max_queue": max_queue,
        "time_limit": time_limit,
        "stop_limit": stop_limit,
        "max_request_bytes": max_request_bytes,
        "max_picture_bytes": max_picture_bytes,
        "max_pixels": max_pixels,
        "max_pictures": max_pictures,
        "url_time_limit": url_time_limit,
    }
    verb.serve(
        models, host, port, engine, backbone, device, precision, allow_class_changes, allow_urls, url_port or [80, 443], limits
    )


@app.command(epilog="Example: promptmix info bundled")
@guarded
def info(
    what: Annotated[
        str,
        typer.Argument(
            help="'bundled', a backbone or its folder, a model or run folder, hf://owner/name of a model, or an exported model."
        ),
    ] = "bundled",
    json_output: Json = False,
) -> None:
    """Show what a backbone or a model is."""
    if what.lower().endswith(".onnx"):
        from promptmix.cli import info_exported

        info_exported.info(Path(what), json_output)
        return
    from promptmix.cli import info as verb

    verb.info(what, json_output)


@app.command(epilog="Example: promptmix export run --out model.onnx --check photos/test")
@guarded
def export(
    model: Annotated[Path, typer.Argument(help="Model or run folder, or hf://owner/name[@revision] on the hub.")],
    out: Annotated[Path, typer.Option(help="File to write; its name ends in .onnx.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Matrix products of 8-bit numbers: a smaller file that says nearly the same.")
    ] = False,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Pictures to compare with torch on, as for predict; drawn ones unless told otherwise. Repeatable."),
    ] = None,
    image_column: ImageColumn = None,
    backbone: BackboneOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    json_output: Json = False,
) -> None:
    """Write a model as one ONNX file that predicts without torch and without this model folder."""
    from promptmix.cli import export as verb

    verb.export(model, out, int8, check or [], image_column, backbone, overwrite, json_output)


@app.command(epilog="Example: promptmix share run somebody/my-flowers --private")
@guarded
def share(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    name: Annotated[str, typer.Argument(help="Repository on the Hugging Face hub, owner/name; made where there is none.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a repository that is made; else as your settings there say."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to write to; main unless told otherwise.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="What others find the backbone by, such as openai/clip-vit-base-patch16; checked first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for what would be sent; nothing is sent then.")] = None,
    json_output: Json = False,
) -> None:
    """Send a model with its card to the Hugging Face hub, without paths of this machine."""
    from promptmix.cli import share as verb

    verb.share(model, name, private, revision, message, backbone, out, json_output)


@app.command(
    epilog="Example: promptmix convert model.pth.tar-50 --backbone openai/clip-vit-base-patch16 --classes names.txt --out model"
)
@guarded
def convert(
    file: Annotated[Path, typer.Argument(help="Checkpoint of CoOp, KgCoOp or ProGrad; it is read without unpickling.")],
    classes: Annotated[
        Path, typer.Option(help="Classes of its training, in its order: a file as for train, or a folder of pictures.")
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    backbone: Annotated[str, typer.Option(help="The backbone it was trained on.")],
    class_position: Annotated[str, typer.Option(help="Class name among the context vectors: end, middle or front.")] = "end",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is there.")] = False,
    json_output: Json = False,
) -> None:
    """Make a model of a published CoOp checkpoint."""
    from promptmix.cli import convert as verb

    verb.convert(file, backbone, classes, out, class_position, overwrite, json_output)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"promptmix {promptmix.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Adapt a frozen vision-language model to your own picture classes, by learning a mixture of prompts."""


def run() -> None:
    """Entry point of the command ``promptmix``."""
    app(prog_name="promptmix")
