"""How the demo's recipes were chosen: on 40 classes that the demo does not use, in the same styles, base and new.

    python tools/choose_demo_recipes.py

prints a table of candidates; the demo takes for each method the one with the best harmonic mean. Three seeds, about ten minutes on
two cores.
"""

from __future__ import annotations

import sys
from typing import Any

from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.demo import HEADER, METHODS, compare, draw_task, table_rows
from promptmix.features.cache import FeatureCache
from promptmix.reporting.tables import text_table

METHODS_THAT_LEARN = ("CoOp", "mixture of prompts", "mixture, image side")
RATES = (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1.0)


def candidates() -> dict[str, dict[str, Any]]:
    """The demo's methods with other rates, with augmented views and without."""
    found = {"zero-shot": METHODS["zero-shot"]}
    for name in METHODS_THAT_LEARN:
        for rate in RATES:
            for views in (0, 4):
                changed = {"recipe": {**METHODS[name]["recipe"], "rate": rate}, "augmentation": {"views": views}}
                found[f"{name}, rate {rate}, {views} views"] = {**METHODS[name], **changed}
    return found


def main() -> None:
    task = draw_task(validation=True)
    scores = compare(task, load_backbone(BUNDLED, device="cpu"), FeatureCache(), candidates())
    sys.stdout.write(f"Measured on {task.measured_on}, none of them the demo's classes.\n")
    sys.stdout.write(text_table(HEADER, table_rows(scores)) + "\n")


if __name__ == "__main__":
    main()
