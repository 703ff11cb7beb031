"""Nothing depends on the order of a set: two processes with other string hashes learn the same."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
from promptmix.data.pictograms import draw_set
from promptmix.runtime import tensors_checksum
from promptmix.training.run import LabelledPictures, RunConfig, run

names = ("anchor", "cat", "skull")
drawn = draw_set(names, ("stamp",), 3, 1)
pictures = LabelledPictures(
    pictures=[one.image for one in drawn], labels=[names.index(one.class_name) for one in drawn], class_names=names, description="drawn"
)
config = RunConfig.model_validate({"recipe": {"epochs": 2, "batch_size": 4}, "options": {"bank": "styles", "regroup": 4}, "device": "cpu"})
model = run(config, pictures).model
print(tensors_checksum(model.learnt), model.expert_names)
"""


def learnt_with(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, env=environment).stdout


def test_string_hashes_change_nothing() -> None:
    first = learnt_with("1")
    assert len(first) > 20
    assert first == learnt_with("2")
