"""``python -m benchmarks``: measure all, write ``docs/benchmarks.json`` and the page ``docs/benchmarks.md``.

``--only training_step growth`` measures some parts anew; ``--only`` with nothing behind it writes the page again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bulk import bulk_page, measure_bulk
from benchmarks.extraction import measure_extraction
from benchmarks.growth import IMAGE, draw_growth, growth_section, measure_growth
from benchmarks.measure import machine, today
from benchmarks.prediction import measure_prediction
from benchmarks.serving import measure_serving, serving_page
from benchmarks.startup import measure_startup
from benchmarks.text_encoding import measure_text_encoding
from benchmarks.training_step import measure_training_step, training_step_section
from promptmix.runtime import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory on this machine.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for benchmarks.json and benchmarks.md")
    parser.add_argument("--rounds", type=int, default=9, help="how often each contestant is timed")
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, metavar="PART", help=f"measure these anew and keep the rest: {', '.join(PARTS)}"
    )
    arguments = parser.parse_args()
    file = arguments.out / "benchmarks.json"
    results: dict[str, Any] = {}
    if arguments.only is not None:
        results = json.loads(file.read_text(encoding="utf-8"))
    else:
        results |= {"date": today(), "machine": machine()}
    for part in PARTS if arguments.only is None else arguments.only:
        results[part] = PARTS[part](arguments.rounds)
        write_json(file, results)  # a part can take minutes
    write_page(results, arguments.out)
    print(json.dumps(results, indent=2))


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "startup": measure_startup,
    "text_encoding": measure_text_encoding,
    "prediction": measure_prediction,
    "extraction": measure_extraction,
    "bulk": measure_bulk,
    "serving": lambda rounds: measure_serving(),
    "training_step": measure_training_step,
    "growth": lambda rounds: measure_growth(),
}
"""What is measured, by its name in ``benchmarks.json``."""


def write_page(results: dict[str, Any], folder: Path) -> None:
    """The page, and the plots that it shows."""
    if "growth" in results:
        (folder / IMAGE).parent.mkdir(parents=True, exist_ok=True)
        draw_growth(results["growth"], folder / IMAGE)
    write_text(folder / "benchmarks.md", page(results))


def page(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    machine_, text, prediction, startup = (results[name] for name in ("machine", "text_encoding", "prediction", "startup"))

    def megabytes(value: int | None) -> str:
        return "not known" if value is None else f"{value / 1e6:.0f} MB"

    return f"""# Speed and memory

Written by `make bench` (`python -m benchmarks`), never by hand; the figures at full precision are in `benchmarks.json` beside this page.
Contestants take turns in one process and medians of {text["rounds"]} rounds are compared, because times on shared machines wander.

Measured on {results["date"]}: {machine_["processor"]}, {machine_["cores"]} cores, {machine_["threads"]} threads, torch {machine_["torch"]},
Python {machine_["python"]}, no GPU.

## The text encoding step

{text["what"][0].upper()}{text["what"][1:]}. This is what a training step costs once image features are cached.
*Textbook* is `benchmarks/textbook.py`: sequences padded to 77 tokens, one pass for each expert, frozen weights, torch's own attention.

*Trimmed* is the same code padded to the longest prompt alone, all experts in one pass: what an evening's work would give.

| | textbook | trimmed | packed |
|---|---:|---:|---:|
| tokens through the tower | {text["textbook_tokens"]} | {text["trimmed_tokens"]} | {text["packed_tokens"]} |
| seconds a step | {text["textbook_seconds"]:.2f} | {text["trimmed_seconds"]:.3f} | {text["packed_seconds"]:.3f} |
| memory a step adds | {megabytes(text["textbook_memory_bytes"])} | {megabytes(text["trimmed_memory_bytes"])} | {megabytes(text["packed_memory_bytes"])} |

- The packed step is **{text["speedup"]:.1f} times faster** than the textbook and {text["speedup_over_trimmed"]:.1f} times faster than the trimmed one; the contexts' gradients differ by {text["worst_relative_gradient_difference"]:.0e} (relative, worst expert).
- This machine multiplies 2048 x 2048 matrices at {text["matrix_product_gflops"]:.0f} GFLOP/s. The packed step's own {text["packed_gflop"]:.1f} GFLOP would take
  {text["floor_seconds"]:.3f} s at that rate: the step takes **{text["times_floor"]:.2f} times its floating-point floor**.

{training_step_section(results["training_step"]) if "training_step" in results else ""}
{growth_section(results["growth"]) if "growth" in results else ""}
## What routing costs at prediction

{prediction["what"][0].upper()}{prediction["what"][1:]}, random weights, float32.

| | seconds |
|---|---:|
| image tower | {prediction["image_tower_seconds"]:.3f} |
| zero-shot, after it | {prediction["zero_shot_seconds"]:.6f} |
| mixture of prompts, after it | {prediction["mixture_seconds"]:.6f} |

With the image tower, routing makes prediction {100 * prediction["overhead_of_routing"]:.4f} % slower than zero-shot; the part after it alone takes
{100 * prediction["overhead_after_the_image_tower"]:.0f} % longer.

{_extraction(results["extraction"])}
{bulk_page(results["bulk"]) if "bulk" in results else ""}
{serving_page(results["serving"]) if "serving" in results else ""}
## Start-up

Processor time (user + system) of a whole process.

| | seconds |
|---|---:|
| `python -c pass` | {startup["python_seconds"]:.3f} |
| `import promptmix` | {startup["import_promptmix_seconds"]:.3f} |
| `from promptmix import PromptClassifier` (loads torch and scikit-learn) | {startup["import_classifier_seconds"]:.3f} |
| `promptmix --help` | {startup["help_seconds"]:.3f} |
"""


def _extraction(results: dict[str, Any]) -> str:
    """The part of the page on image features."""
    rows = [
        f"| {name} | {one['one_by_one_pictures_per_second']:.1f} | {one['batched_pictures_per_second']:.1f} | {one['ours_pictures_per_second']:.1f}"
        f" | {one['speedup_over_one_by_one']:.1f} | {one['speedup_over_batched']:.1f} |"
        for name, one in results["towers"].items()
    ]
    parts = [
        f"| {name} | {1e3 * one['plain_reading_seconds_per_picture']:.1f} | {1e3 * one['our_reading_seconds_per_picture']:.1f}"
        f" | {1e3 * one['plain_preprocessing_seconds_per_picture']:.1f} | {1e3 * one['our_preprocessing_seconds_per_picture']:.1f}"
        f" | {1e3 * one['tower_seconds_per_picture']:.1f} |"
        for name, one in results["towers"].items()
    ]
    reduced = [
        f"| {one['picture']} | 1/{one['divisor']} | {1e3 * one['whole_seconds']:.0f} | {1e3 * one['reduced_seconds']:.0f}"
        f" | {one['greatest_difference_in_levels']} | {100 * one['share_above_one_level']:.2f} % |"
        for one in results["reduced_decoding"]
    ]
    memory = [
        f"| {which} | {one['few_bytes'] / 1e6:.0f} MB | {one['many_bytes'] / 1e6:.0f} MB |"
        for which, one in results["memory"].items()
        if one is not None
    ]
    cosine = min(one["least_cosine_with_the_plain_loop"] for one in results["towers"].values())
    return f"""## Image features of photographs

{results["what"]} ({results["file_bytes"] / 1e3:.0f} kB each). The plain loops are Pillow and the tower in one thread of Python: one picture
at a time, and all in one batch. Ours reads in as many threads as there are processors. Pictures a second, and ours over each:

| tower | one by one | one batch | ours | over one by one | over one batch |
|---|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

Milliseconds a picture of each part, in one thread (the tower in all of torch's). Pre-processing is resizing and cropping:

| tower | reading, plain | reading, ours | pre-processing, plain | pre-processing, ours | tower |
|---|---:|---:|---:|---:|---:|
{chr(10).join(parts)}

The least cosine between a feature of ours and one of the plain loop is {cosine:.7f}.

JPEG files can be decoded at a half or a quarter of their size. We do not: it would be quicker, but views of 224 pixels change by more than a
level, most where bright colours meet. Milliseconds from file to view in one thread, and what changes:

| picture | decoded at | whole | reduced | greatest difference in levels | values that differ by more than one |
|---|---:|---:|---:|---:|---:|
{chr(10).join(reduced)}

Resident memory of a process that reads the same small pictures again and again, after 1,000 and after 50,000 of them:

| | 1,000 | 50,000 |
|---|---:|---:|
{chr(10).join(memory)}
"""


if __name__ == "__main__":
    main()
