"""Nothing depends on the order of a set: two processes with other string hashes learn the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.features.cache import FeatureCache
from promptmix.runtime import tensors_checksum
from promptmix.data.records import LabelledPictures
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

print(hash("anchor"))
names = ("anchor", "cat", "skull")
drawn = draw_set(names, ("stamp",), 3, 1)
pictures = LabelledPictures(
    pictures=[one.image for one in drawn], labels=[names.index(one.class_name) for one in drawn], class_names=names, description="drawn"
)
backbone, cache = load_backbone("bundled", device="cpu"), FeatureCache()
recipe = {"epochs": 2, "batch_size": 4}
for config in (
    {"method": "mocoop", "options": {"bank": "styles", "regroup": 4, "text_classes": "all"}, "recipe": recipe},
    {"method": "coop", "options": {"class_specific": True}, "recipe": recipe},
    {"method": "linear-probe"},
):
    outcome = run(RunConfig.model_validate(config), pictures, more_class_names=("heart", "gear"), backbone=backbone, cache=cache)
    model = outcome.model
    print(tensors_checksum(model.learnt), tensors_checksum(model.classifier.tensors()), model.expert_names)
"""


def learnt_with(hash_seed: str, cache: str) -> list[str]:
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths, "PROMPTMIX_CACHE": cache}
    command = [sys.executable, "-c", CODE]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()


def test_string_hashes_change_nothing(tmp_path: Path) -> None:
    first_hash, *first = learnt_with("1", str(tmp_path / "first"))
    second_hash, *second = learnt_with("2", str(tmp_path / "second"))
    assert first_hash != second_hash
    assert len(first) == 3
    assert first == second
