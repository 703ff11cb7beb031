"""A run on several ranks is calibrated by all of them together, and written by the first alone."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.many_ranks import on_ranks
from torch import Tensor

from promptmix.cli.calibrate import calibrate_run
from promptmix.data.drawn_task import labelled
from promptmix.data.pictograms import draw_set
from promptmix.distributed.group import rank
from promptmix.evaluation.targets import Wanted
from promptmix.model_folder import read_model
from promptmix.training.fit import RunConfig, no_progress
from promptmix.training.left_out import CALIBRATION_FILES
from promptmix.training.run import run

CLASSES = ("anchor", "cat", "skull")


def calibrated(folder: Path) -> dict[str, Tensor]:
    """Each rank has a folder of its own, as on a machine of its own; the second time the first finds what was said of the shots."""
    training, test = (labelled(draw_set(CLASSES, ("neon", "stamp"), 2, seed), CLASSES, "drawn") for seed in (1, 2))
    config = RunConfig.model_validate({"method": "tip-adapter", "augmentation": {"views": 0}, "device": "cpu"})
    out = folder / str(rank())
    outcome = run(config, training, test, out=out)
    gave = []
    for _ in range(2):
        wanted = Wanted.parse("coverage=0.8", None)
        found = calibrate_run(out, outcome.model, wanted, config, training, test, None, (), no_progress)
        gave.append(found is not None and found[1] is not None and found[1].after.num_pictures == 12)
    return {"gave": torch.tensor(gave), "wrote": torch.tensor(out.exists())}


def test_the_first_of_two_ranks_calibrates_and_writes(tmp_path: Path) -> None:
    first, second = on_ranks(calibrated, 2, tmp_path / "ranks", tmp_path)
    assert first["gave"].tolist() == [True, True]
    assert second["gave"].tolist() == [False, False]
    assert first["wrote"] and not second["wrote"]
    stored = read_model(tmp_path / "0").calibration
    assert stored is not None and stored.abstain is not None
    assert {path.name for path in (tmp_path / "0").iterdir()} >= set(CALIBRATION_FILES)
