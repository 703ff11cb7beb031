"""promptmix demo"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.cli.output import progress
from promptmix.demo import HEADER, SHOTS, check_free, compare, draw_task, report, table_rows, verdict, write_demo
from promptmix.features.cache import FeatureCache
from promptmix.reporting.tables import text_table


def demo(out: Path, overwrite: bool, cache: bool, json_output: bool) -> None:
    started = time.monotonic()
    check_free(out, overwrite)
    store = FeatureCache() if cache else None
    task = draw_task()
    backbone = load_backbone(BUNDLED, device="cpu")
    with progress() as on_progress:
        scores = compare(task, backbone, store, on_progress=on_progress)
        write_demo(out, task, backbone, store, scores, overwrite)
    if json_output:
        print(json.dumps(report(task, backbone, scores)))
        return
    print(f"Measured on {task.measured_on}.")
    print(f"Accuracy in %, mean ± standard deviation of {len(task.training)} seeds; {SHOTS} shots of each base class.")
    print("The backbone is the bundled one, which knows drawings, not photographs, and has never seen these styles.")
    print()
    print(text_table(HEADER, table_rows(scores)))
    print()
    print(verdict(scores))
    print("The linear probe knows no new classes: it cannot use a class name.")
    print()
    print(f"Written to {out} in {time.monotonic() - started:.0f} s:")
    print("  predictions.png  test pictures with what the trained model says of them")
    print("  methods.png      the table as bars")
    print("  router.png       which prompts answer for which style")
    print("  styles.png       accuracy by style")
    print("  model            the trained mixture of prompts;  pictures  what it was trained and measured on")
    print()
    # In an environment that is not active, as that of `make demo`, the bare name would not be found.
    program = "promptmix" if shutil.which("promptmix") else os.path.relpath(sys.argv[0])
    folder = shlex.quote(str(out))
    print("Next:")
    print(f"  {program} predict {folder}/model {folder}/pictures/test")
    print(f"  {program} classes add {folder}/model {' '.join(map(shlex.quote, task.new[:2]))}")
    print(f"  {program} train {folder}/pictures/train --test {folder}/pictures/test --out my-model")
    print(f"  {program} train YOUR-PICTURES --out my-model     # one sub-folder a class")
