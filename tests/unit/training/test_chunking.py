"""The plan of how much text is in memory at once, weighed against what training really keeps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbone_files import write_with_vision_transformer
from torch.nn import functional

from promptmix import runtime
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.distributed.rows import Share
from promptmix.errors import ConfigError
from promptmix.methods.base import Method
from promptmix.methods.registry import build_method
from promptmix.prompts.chunks import ChunkLimits, limit_chunks
from promptmix.structs import Batch
from promptmix.training import chunking
from promptmix.training.chunking import plan_chunks

NAMES = tuple(f"kind {number} of thing{'s seen from afar' * (number % 3)}" for number in range(300))
EIGHT_EXPERTS: dict[str, Any] = {
    "groups": [[f"{word} {{}}."] for word in ["a", "many", "one", "old", "new", "big", "red", "wet"]]
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process held nothing else, so that the plan is of the step alone."""
    monkeypatch.setattr(chunking, "held_memory_bytes", lambda device: 0)


def made(
    backbone: Backbone, name: str = "mocoop", options: dict[str, Any] | None = None, names: Sequence[str] = NAMES
) -> tuple[Method, Callable[[Sequence[str]], Method]]:
    given = EIGHT_EXPERTS if options is None else options

    def build(class_names: Sequence[str]) -> Method:
        return build_method(name, given, backbone, class_names, 1)

    return build(names), build


@pytest.mark.parametrize("name", ["mocoop", "promptmix"])
def test_a_row_weighs_what_the_whole_step_says(backbone: Backbone, name: str) -> None:
    method, build = made(backbone, name, names=NAMES[:120])
    plan = plan_chunks(method, build, 4, 2**33)
    assert plan is not None
    assert plan.rows == 8 * 120
    whole = chunking._weigh_step(method, 4)
    assert 0.75 < plan.rows * plan.row_bytes / whole < 1.25


def test_of_prompts_that_depend_on_the_picture_each_picture_s_count(backbone: Backbone) -> None:
    method, build = made(backbone, "cocoop", {}, NAMES[:160])
    plan = plan_chunks(method, build, 6, 2**33)
    assert plan is not None
    assert plan.rows == 6 * 160
    assert 0.75 < plan.rows * plan.row_bytes / chunking._weigh_step(method, 6) < 1.25


def test_a_row_weighs_the_same_however_many_pictures_a_step_has(backbone: Backbone) -> None:
    few, many = (plan_chunks(*made(backbone, "cocoop", {}, NAMES[:12]), batch_size, 2**33) for batch_size in (16, 300))
    assert few is not None and many is not None
    assert few.row_bytes == many.row_bytes > 10_000
    assert many.rows == 12 * 300


@pytest.mark.parametrize("sampled", [100, 200])
def test_with_sampled_classes_a_row_weighs_what_it_does_without(backbone: Backbone, sampled: int) -> None:
    plan = plan_chunks(*made(backbone, options={**EIGHT_EXPERTS, "sampled_classes": sampled}), 4, 2**33)
    whole = plan_chunks(*made(backbone), 4, 2**33)
    assert plan is not None and whole is not None
    assert plan.rows == 8 * sampled
    assert 0.8 < plan.row_bytes / whole.row_bytes < 1.25


def test_prompts_of_classes_without_pictures_count_too(backbone: Backbone) -> None:
    options = {**EIGHT_EXPERTS, "text_classes": "all"}

    def build(class_names: Sequence[str]) -> Method:
        return build_method("mocoop", options, backbone, class_names, 1, NAMES[20:260][: len(class_names)])

    method = build_method("mocoop", options, backbone, NAMES[:20], 1, NAMES[20:260])
    plan = plan_chunks(method, build, 4, 2**33)
    whole = plan_chunks(*made(backbone), 4, 2**33)
    assert plan is not None and whole is not None
    assert plan.rows == 8 * 260
    assert 0.8 < plan.row_bytes / whole.row_bytes < 1.25


def test_a_small_step_needs_no_plan_and_one_without_text_never_does(backbone: Backbone) -> None:
    method, build = made(backbone, names=NAMES[:10])
    assert plan_chunks(method, build, 4) is None
    assert plan_chunks(method, build, 4, 2**33) is not None
    assert plan_chunks(*made(backbone, "tip-adapter-f", {}), 4, 2**20) is None


@pytest.mark.parametrize(("at_once", "rows"), [(2**40, 1024), (100, 100)])
def test_without_a_limit_the_rows_at_a_time_are_the_usual_ones_or_what_a_processor_encodes_fastest(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, nothing_held: None, at_once: int, rows: int
) -> None:
    method, build = made(backbone)
    monkeypatch.setattr(chunking, "_weigh_row", lambda *_: 1000)
    monkeypatch.setattr(chunking, "_BYTES_AT_A_TIME", at_once * 1000)
    for free, kept in ((None, 0), (2**20, 0), (2**40, -(-2400 // rows) * rows)):
        monkeypatch.setattr(chunking, "free_memory_bytes", lambda device, free=free: free)
        plan = plan_chunks(method, build, 4)
        assert plan is not None
        assert (plan.limits.rows, plan.limits.kept_rows) == (rows, kept)
        # Room is made before a chunk would exceed what may be spent, or what the plan cannot do without.
        chunk = chunking._ON_TOP * rows * 1000
        assert plan.limits.full_bytes == int(max(plan.expected_bytes, chunking._spendable(torch.device("cpu"))) - chunk)
    # A step of no more than the usual rows is encoded at once wherever that fits.
    plan = plan_chunks(*made(backbone, names=NAMES[:120]), 4, 2**33)
    assert plan is not None
    assert (plan.rows, plan.limits.rows) == (960, 960)


@pytest.mark.usefixtures("nothing_held")
def test_with_a_limit_no_more_is_in_memory_than_fits(backbone: Backbone) -> None:
    method, build = made(backbone)
    plenty = plan_chunks(method, build, 4, 2**34)
    assert plenty is not None
    assert plenty.limits.kept_rows >= plenty.rows
    rows_before = plenty.rows
    for allowed in (2**30, 2**29 + 2**28, 2**29 + 2**27, 2**29 + 2**26, 2**29):
        plan = plan_chunks(method, build, 4, allowed)
        assert plan is not None
        assert plan.expected_bytes <= allowed
        in_memory = min(plan.rows, plan.limits.rows + plan.limits.kept_rows)
        assert in_memory <= rows_before
        rows_before = in_memory
    assert plan.limits.rows < 1024
    assert f"{plan.limits.rows:,} at a time" in str(plan)


@pytest.mark.usefixtures("nothing_held")
def test_too_little_memory_is_refused_with_what_is_needed(backbone: Backbone) -> None:
    method, build = made(backbone)
    with pytest.raises(ConfigError, match=r"--max-memory 100 MiB is too little: 2,400 prompts a step need about \d+ MiB"):
        plan_chunks(method, build, 4, 100 * 2**20)


@pytest.mark.usefixtures("nothing_held")
def test_a_rank_to_which_no_row_falls_has_a_plan_too(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method, build = made(backbone, "coop", {}, NAMES[:2])
    monkeypatch.setattr(chunking, "own_share", lambda total: Share(first=0, count=total // 3, total=total))
    plan = plan_chunks(method, build, 4, 2**33)
    assert plan is not None
    assert plan.limits.rows >= 1


@pytest.mark.usefixtures("nothing_held")
def test_all_ranks_encode_as_many_rows_at_a_time(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "gather_json", lambda own: [own, 17])
    plan = plan_chunks(*made(backbone), 4, 2**33)
    assert plan is not None
    assert plan.limits.rows == 17
    assert plan.limits.kept_rows % 17 == 0


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_texts_that_ranks_do_not_split_count_whole(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    method, build = made(backbone, "clip-lora", {"towers": "text", "dropout": dropout}, NAMES[:60])
    alone = plan_chunks(method, build, 4, 2**33)
    monkeypatch.setattr(chunking, "own_share", lambda total: Share(first=0, count=total // 3, total=total))
    of_three = plan_chunks(method, build, 4, 2**33)
    assert alone is not None and of_three is not None
    assert (alone.rows, of_three.rows) == ((60, 60) if dropout > 0 else (60, 20))
    assert (alone.row_bytes == of_three.row_bytes) == (dropout > 0)  # in truth each rank weighs its own share alone


@pytest.mark.skipif(runtime._glibc() is None, reason="only glibc is asked what it does with freed memory")
def test_what_others_have_freed_in_this_process_counts_for_nothing(backbone: Backbone) -> None:
    made_here = made(backbone, names=NAMES[:10])
    before = plan_chunks(*made_here, 4, 2**33)
    runtime.keep_freed_memory()
    blocks = [torch.ones(2**18) for _ in range(200)]
    last = blocks.pop()  # behind the others, so that the end of the heap alone frees nothing
    del blocks
    after = plan_chunks(*made_here, 4, 2**33)
    assert before is not None and after is not None
    assert after.expected_bytes < before.expected_bytes + 100 * 2**20
    assert bool((last == 1).all())


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize(
    ("name", "options"),
    [("clip-lora", {}), ("clip-lora", {"towers": "vision"}), ("maple", {}), ("lasp", {"visual_layer_norms": True})],
)
def test_the_graph_of_pictures_counts_where_the_image_tower_is_tuned(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    write_with_vision_transformer(tmp_path)
    backbone = load_backbone(str(tmp_path), device="cpu")
    method, build = made(backbone, name, options, NAMES[:12])
    few, many = (plan_chunks(method, build, batch_size, 2**33) for batch_size in (2, 102))
    if options.get("towers") == "vision":
        assert few is many is None  # no text is encoded, so there is nothing to plan
        return
    assert few is not None and many is not None
    pixels = torch.zeros(100, *2 * [backbone.config.preprocess.crop], 3, dtype=torch.uint8)
    with chunking._weighing(method) as kept:
        features = method.encode_training_pixels(pixels, 0)
    assert features.requires_grad
    assert 0.9 < (many.expected_bytes - few.expected_bytes) / sum(kept.values()) < 1.5


@pytest.mark.usefixtures("nothing_held")
def test_what_one_prompt_is_held_against_counts(backbone: Backbone) -> None:
    few, many = (
        plan_chunks(*made(backbone, "lasp", {"templates": [f"{word} {{}}." for word in words]}), 4, 2**33)
        for words in (["a"], ["a", *(f"the {number}th" for number in range(29))])
    )
    assert few is not None and many is not None
    assert few.rows == many.rows == len(NAMES)
    # Logits, their softmax and its gradient, of 29 templates more.
    assert many.expected_bytes - few.expected_bytes > 3 * 4 * 29 * len(NAMES) ** 2


def test_a_step_within_the_limits_is_the_step_without(backbone: Backbone) -> None:
    tower, _ = backbone.require_text()
    exact = dataclasses.replace(backbone, text=copy.deepcopy(tower).double())  # other orders of adding up do not tell
    method = made(exact, names=NAMES[:30])[0].double()
    drawn = torch.randn(6, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = functional.normalize(drawn, dim=-1)
    batch = Batch(image_features=features, labels=torch.arange(6))

    def gradients(limits: ChunkLimits) -> dict[str, torch.Tensor]:
        method.zero_grad()
        with limit_chunks(limits):
            method.backward(method.training_step(batch))
        return {name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None}

    whole, cut = gradients(ChunkLimits()), gradients(ChunkLimits(rows=17, kept_rows=34))
    assert whole.keys() == cut.keys() == dict(method.named_parameters()).keys()
    for name, expected in whole.items():
        assert float((cut[name] - expected).norm() / expected.norm()) < 1e-12, name
