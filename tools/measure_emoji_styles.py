"""The bundled backbone on emoji of kinds it was never told ("mammal", "drink"), in the two styles it has never seen.

    python tools/measure_emoji_styles.py --emoji-styles emoji_styles

The folder holds ``STYLE/CLASS/train_*`` and ``test_*`` pictures; the test emoji are in no picture the backbone was pretrained on, in any
style. Prints two tables as Markdown: every method on 16 shots of every class, and on 16 shots of every other class, measured on these and
on the rest as new classes; and zero-shot by style. Rates are those of the demo, chosen on drawn pictograms. About seven minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.data.pictograms import DrawnPicture
from promptmix.demo import HEADER, SEEDS, SHOTS, DemoTask, compare, table_rows
from promptmix.features.cache import FeatureCache
from promptmix.reporting.tables import markdown_table
from promptmix.runtime import numpy_generator

UNSEEN_STYLES = ("openmoji colour", "openmoji black")


def pictures_of(folder: Path, styles: tuple[str, ...], class_names: tuple[str, ...], part: str) -> list[DrawnPicture]:
    """The pictures of a part, class by class and style by style."""
    return [
        DrawnPicture(image=Image.open(path).convert("RGB"), class_name=name, style=style)
        for name in class_names
        for style in styles
        for path in sorted((folder / style / name).glob(f"{part}_*"))
    ]


def shots_of(pictures: list[DrawnPicture], class_names: tuple[str, ...], seed: int) -> list[DrawnPicture]:
    """Up to 16 pictures of each class, the styles mixed as they come."""
    shots: list[DrawnPicture] = []
    for name in class_names:
        own = [one for one in pictures if one.class_name == name]
        order = numpy_generator(seed, f"shots of {name}").permutation(len(own))[:SHOTS]
        shots += [own[place] for place in sorted(order)]
    return shots


def task_of(folder: Path, base: tuple[str, ...], new: tuple[str, ...]) -> DemoTask:
    training = pictures_of(folder, UNSEEN_STYLES, base, "train")
    return DemoTask(
        base=base,
        new=new,
        training={seed: shots_of(training, base, seed) for seed in SEEDS},
        test_base=pictures_of(folder, UNSEEN_STYLES, base, "test"),
        test_new=pictures_of(folder, UNSEEN_STYLES, new, "test"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji-styles", type=Path, required=True)
    folder = parser.parse_args().emoji_styles
    names = tuple(sorted(path.name for path in (folder / UNSEEN_STYLES[0]).iterdir() if path.is_dir()))
    backbone, cache = load_backbone(BUNDLED, device="cpu"), FeatureCache()
    for task in (task_of(folder, names, ()), task_of(folder, names[::2], names[1::2])):
        sys.stdout.write(f"Measured on {task.measured_on}.\n\n")
        sys.stdout.write(markdown_table(HEADER, table_rows(compare(task, backbone, cache))) + "\n\n")
    styles = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    whole = DemoTask(
        base=names,
        new=(),
        training={1: pictures_of(folder, styles[:1], names, "train")},  # which zero-shot does not learn from
        test_base=pictures_of(folder, styles, names, "test"),
        test_new=[],
    )
    scores = compare(whole, backbone, cache, {"zero-shot": {"method": "zero-shot"}})["zero-shot"]
    rows = [(style, f"{100 * share:.1f}") for style, share in scores.by_style.items()]
    sys.stdout.write(markdown_table(("style", "zero-shot"), rows) + "\n")


if __name__ == "__main__":
    main()
