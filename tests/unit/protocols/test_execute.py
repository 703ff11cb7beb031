"""One run: nothing of a test picture is seen before all is learnt, and the numbers are those of the pictures and names they claim."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.backbone_files import write_clip

from promptmix.backbones.base import Backbone
from promptmix.data.drawn_task import block_of_classes
from promptmix.data.images import content_key
from promptmix.errors import ConfigError, DataError, InterruptedRun
from promptmix.evaluation.results import read_bench_result
from promptmix.features.extract import extract_features
from promptmix.methods.registry import METHODS, build_method
from promptmix.protocols import datasets
from promptmix.protocols import execute as module
from promptmix.protocols.base import Plan
from promptmix.protocols.datasets import open_data
from promptmix.protocols.execute import Workbench, execute, is_finished, run_folder
from promptmix.protocols.make_plan import make_plan
from promptmix.training.checkpoint import read_checkpoint, write_checkpoint
from promptmix.training.loop import Taken

from .conftest import QUICK

MakePlan = Callable[..., Plan]


class Watch:
    """Files that were opened, and the moment when learning ended, in their order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.folder: str | None = None


_watch = Watch()


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    # A hook stays for the life of the process, so it must cost nothing when nobody watches.
    if _watch.folder is not None and event == "open" and str(arguments[0]).startswith(_watch.folder):
        _watch.events.append(str(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_see)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    _watch.events = []

    def learn(*arguments: Any, **named: Any) -> Taken:
        taken = learn_it(*arguments, **named)
        _watch.events.append("learnt")
        return taken

    learn_it = module.learn
    monkeypatch.setattr(module, "learn", learn)
    yield _watch
    _watch.folder = None


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone with a vision transformer, for the methods that need one."""
    folder = tmp_path_factory.mktemp("backbones") / "clip"
    write_clip(folder, "quick_gelu")
    return str(folder)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("protocol", ["few-shot", "base-to-new", "cross-dataset", "domain", "compare"])
def test_no_test_picture_is_opened_before_everything_is_learnt(
    backbone: Backbone,
    transformer: str,
    split_photos: Path,
    plain_photos: Path,
    watch: Watch,
    protocol: str,
    method: str,
) -> None:
    from promptmix.backbones.registry import load_backbone

    data = {"cross-dataset": [split_photos, plain_photos], "domain": [split_photos, split_photos / "test"]}
    used = backbone
    try:
        build_method(method, {}, backbone, ("a", "b"))
    except ConfigError:
        used = load_backbone(transformer, device="cpu")
    watch.folder = str(split_photos.parent.parent)
    plan = make_plan(
        protocol,
        used,
        data=[str(one) for one in data.get(protocol, [split_photos])],
        methods=[method],
        shots=[2],
        seeds=[1],
        overrides=QUICK,
        backbone_name=used.name,
    )
    assert not any(path.endswith(".png") for path in watch.events), "a picture was opened to make the plan"
    (run,) = plan.runs
    result = execute(plan, run, Workbench(backbone=used))
    assert result.measures
    learns = plan.contenders[method].learns != "nothing"
    assert ("learnt" in watch.events) == learns
    before = watch.events[: watch.events.index("learnt")] if learns else []
    after = watch.events[len(before) :]
    trained = {Path(path).parts[-3] for path in before if path.endswith(".png")}
    assert trained == ({"train"} if learns else set())
    seen = {path for path in after if path.endswith(".png")}
    assert seen
    if protocol != "domain":
        assert not any("/train/" in path for path in seen)


def test_of_the_bundled_world_no_test_picture_is_drawn_before(
    backbone: Backbone, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = datasets.draw_tests

    def drawn(*arguments: Any) -> Any:
        watch.events.append("drawn")
        return draw(*arguments)

    monkeypatch.setattr(datasets, "draw_tests", drawn)
    plan = make_plan("domain", backbone, methods=["coop"], shots=[1], seeds=[1], overrides=QUICK)
    execute(plan, plan.runs[0], Workbench(backbone=backbone))
    assert watch.events == ["learnt", "drawn", "drawn", "drawn"]


def test_pictures_held_out_are_not_learnt_from(backbone: Backbone, plain_photos: Path, watch: Watch) -> None:
    plan = make_plan("compare", backbone, data=[str(plain_photos)], methods=["coop"], shots=[16], seeds=[1, 2], overrides=QUICK)
    measured = []
    for run in plan.runs:
        watch.events, watch.folder = [], str(plain_photos)
        result = execute(plan, run, Workbench(backbone=backbone))
        place = watch.events.index("learnt")
        before, after = (
            {path for path in part if path.endswith(".png")} for part in (watch.events[:place], watch.events[place:])
        )
        assert (len(before), len(after)) == (28, 12)
        assert not before & after
        assert any("fewer than 16 pictures" in note for note in result.notes)
        measured.append(after)
    assert measured[0] != measured[1]


def test_the_numbers_are_those_of_the_pictures_and_names_they_claim(small_plan: MakePlan, backbone: Backbone) -> None:
    """Against a loop over pictures, with zero-shot, whose classifier is known."""
    plan = small_plan("base-to-new", methods=["zero-shot"])
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    source = open_data(plan.data["split"].spec)
    test = source.test(1)
    features = extract_features(backbone, test.pictures).features[:, 0]
    for part, places in (("base", [0, 1, 2]), ("new", [3, 4]), ("joint", [0, 1, 2, 3, 4])):
        names = [source.class_names[place] for place in places]
        classifier = build_method("zero-shot", {}, backbone, names).classifier()
        hits = [
            names[int(classifier.logits(feature[None]).argmax())] == source.class_names[label]
            for feature, label in zip(features, test.labels, strict=True)
            if label in places
        ]
        measured = result.measures[part]
        assert measured is not None
        assert measured["num_pictures"] == len(hits) == 4 * len(places)
        assert measured["accuracy"] == sum(hits) / len(hits)
        assert list(measured["per_class"]) == names
        assert result.zero_shot[part] == measured
    assert result.shots is None
    assert result.num_trained_parameters == 0
    assert result.notes == []


def test_a_method_that_knows_no_new_class_says_so(small_plan: MakePlan, backbone: Backbone) -> None:
    plan = small_plan("base-to-new", methods=["linear-probe"])
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    assert result.measures["base"] is not None
    assert result.measures["new"] is result.measures["joint"] is None
    assert set(result.refusals) == {"new", "joint"}
    assert all("only the classes it saw" in reason for reason in result.refusals.values())
    assert set(result.zero_shot) == set(result.descriptions) == {"base", "new", "joint"}


def test_a_class_under_another_spelling_is_the_class_that_was_learnt(
    backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    name = block_of_classes(0)[0][0]
    for folder in (split_photos / "test").iterdir():
        spelt = folder.name.upper() if folder.name == name else folder.name
        (tmp_path / "shouted").mkdir(exist_ok=True)
        (tmp_path / "shouted" / spelt).symlink_to(folder)
    plan = make_plan(
        "domain",
        backbone,
        data=[str(split_photos), str(tmp_path / "shouted")],
        methods=["linear-probe"],
        shots=[4],
        seeds=[1],
    )
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    ours, theirs = result.measures["split"], result.measures["shouted"]
    assert ours is not None and theirs is not None
    # The order of the classes differs where the case does; what is said of every picture does not.
    assert theirs["accuracy"] == ours["accuracy"]
    assert theirs["negative_log_likelihood"] == pytest.approx(ours["negative_log_likelihood"])
    assert name.upper() in theirs["per_class"]


def test_what_must_stand_beside_a_number_does(small_plan: MakePlan, backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "told.yaml").write_text(
        "method: mocoop\noptions: {text_classes: all}\nnew_class_names: true\nrecipe: {epochs: 1, rate: 100.0}\n"
        "by_data: {split: {options: {top_k: 1}}}\n"
    )
    plan = small_plan("base-to-new", methods=[str(tmp_path / "told.yaml")], shots=[9], overrides=["augmentation.views=0"])
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    notes = "\n".join(result.notes)
    assert "saw the names of the 2 new classes" in notes
    assert "top_k picked by hand for split" in notes
    assert "fewer than 9 pictures, so all of them were learnt from: " in notes
    assert "below zero-shot on the same pictures: " in notes
    assert result.config["options"]["top_k"] == 1
    assert result.config["recipe"]["rate"] == 100.0


def test_a_template_picked_by_hand_is_used_and_marked(
    small_plan: MakePlan, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(methods=["zero-shot", "coop"])
    usual = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    monkeypatch.setattr(datasets.OwnPictures, "template", "a neon sign of a {}.")
    zero_shot, coop = (execute(plan, run, Workbench(backbone=backbone)) for run in plan.runs)
    assert zero_shot.config["options"]["template"] == "a neon sign of a {}."
    assert zero_shot.measures["test"] == zero_shot.zero_shot["test"] != usual.zero_shot["test"]
    assert "a template picked by hand for split: 'a neon sign of a {}.'" in zero_shot.notes
    assert zero_shot.zero_shot == coop.zero_shot
    assert any(note.startswith("zero-shot of test has a template picked by hand") for note in coop.notes)


def test_what_learns_nothing_has_the_words_of_each_data_set(
    backbone: Backbone, split_photos: Path, plain_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MeasuredPictures, "template", "a neon sign of a {}.")
    data = [str(split_photos), str(plain_photos)]
    plan = make_plan("cross-dataset", backbone, data=data, methods=["zero-shot", "coop"], shots=[1], seeds=[1], overrides=QUICK)
    zero_shot, coop = (execute(plan, run, Workbench(backbone=backbone)) for run in plan.runs)
    assert zero_shot.measures == zero_shot.zero_shot == coop.zero_shot
    assert "a template picked by hand for plain: 'a neon sign of a {}.'" in zero_shot.notes
    assert "a template picked by hand for plain: 'a neon sign of a {}.'" not in coop.notes
    # It is not said twice, and what the result records is that of the source.
    assert not any("was measured with" in note for note in zero_shot.notes)


def test_what_a_part_was_measured_with_stands_beside_it_where_it_is_not_what_the_result_records(
    backbone: Backbone, split_photos: Path, plain_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of a result are those for the source, whose template another data set may not have."""
    monkeypatch.setattr(datasets.OwnPictures, "template", "a neon sign of a {}.")
    (tmp_path / "words.yaml").write_text("method: ensemble\nby_data: {plain: {options: {bank: lasp}}}\n")
    plan = make_plan(
        "cross-dataset",
        backbone,
        data=[str(split_photos), str(plain_photos)],
        methods=["zero-shot", str(tmp_path / "words.yaml"), "coop"],
        shots=[1],
        seeds=[1],
        overrides=QUICK,
    )
    zero_shot, ensemble, coop = (execute(plan, run, Workbench(backbone=backbone)) for run in plan.runs)
    assert zero_shot.config["options"]["template"] == "a neon sign of a {}."
    assert [note for note in zero_shot.notes if "was measured with" in note] == [
        "plain was measured with template 'a photo of a {}.'"
    ]
    assert [note for note in ensemble.notes if "was measured with" in note] == ["plain was measured with bank 'lasp'"]
    assert not any("was measured with" in note for note in coop.notes)


def test_pictures_that_were_listed_otherwise_are_not_those_of_the_plan(
    small_plan: MakePlan, backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(split_photos, tmp_path / "split")
    plan = small_plan(data=[str(tmp_path / "split")])
    next((tmp_path / "split" / "train").rglob("*.png")).unlink()
    open_data.cache_clear()
    with pytest.raises(DataError, match="the pictures of split are not those of the plan"):
        execute(plan, plan.runs[0], Workbench(backbone=backbone))


def test_what_a_process_keeps_changes_no_number(small_plan: MakePlan, backbone: Backbone) -> None:
    plan = small_plan("base-to-new", methods=["coop", "linear-probe"], seeds=[1, 2])
    bench = Workbench(backbone=backbone)
    for run in plan.runs:
        shared, alone = execute(plan, run, bench), execute(plan, run, Workbench(backbone=backbone))
        for result in (shared, alone):
            result.seconds.clear()
        assert shared.model_copy(update={"peak_memory_bytes": 0}) == alone.model_copy(update={"peak_memory_bytes": 0})
    assert len(bench.tests) == 1


def test_a_run_writes_its_result_last_and_keeps_no_checkpoint(small_plan: MakePlan, backbone: Backbone, tmp_path: Path) -> None:
    plan = small_plan(methods=["coop"])
    (run,) = plan.runs
    folder = run_folder(tmp_path, run)
    assert not is_finished(tmp_path, plan, run)
    result = execute(plan, run, Workbench(backbone=backbone), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "result.json", "run.json"]
    assert read_bench_result(folder / "result.json") == result
    assert is_finished(tmp_path, plan, run)
    # The result of another plan is none of this one.
    other = small_plan(methods=["coop"], overrides=["recipe.epochs=2", "augmentation.views=0"])
    assert not is_finished(tmp_path, other, other.runs[0])
    (folder / "result.json").write_text((folder / "result.json").read_text()[:-20])
    assert not is_finished(tmp_path, plan, run)


def test_a_stopped_run_goes_on_from_its_checkpoint(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(methods=["coop"], overrides=["recipe.epochs=20", "recipe.batch_size=4", "augmentation.views=0"])
    (run,) = plan.runs

    def stop(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 17:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        execute(plan, run, Workbench(backbone=backbone), tmp_path / "cut", stop)
    folder = run_folder(tmp_path / "cut", run)
    assert (folder / "checkpoint.safetensors").is_file()
    steps: list[int] = []

    def watch(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training":
            steps.append(done)

    path = folder / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        key = json.loads(file.metadata()["state"])["run_key"]
    write_checkpoint(path, dataclasses.replace(read_checkpoint(path, key), seconds=5000.0, peak_memory_bytes=2**60))
    resumed = execute(plan, run, Workbench(backbone=backbone), tmp_path / "cut", watch)
    assert 5000 < resumed.seconds["training"] < resumed.seconds["all"] < 5500
    assert resumed.peak_memory_bytes == 2**60
    assert steps[0] == 18
    whole = execute(plan, run, Workbench(backbone=backbone), tmp_path / "whole")
    assert resumed.measures == whole.measures
    assert (folder / "log.jsonl").read_bytes() == (run_folder(tmp_path / "whole", run) / "log.jsonl").read_bytes()


def test_zero_shot_beside_a_run_is_not_on_its_clock(
    small_plan: MakePlan, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [0.0]
    zero_shot = module._zero_shot

    def slow(*arguments: Any) -> Any:
        late[0] += 1000
        return zero_shot(*arguments)

    monkeypatch.setattr(module, "_zero_shot", slow)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))
    plan = small_plan(methods=["coop"])
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    assert late[0] > 0
    assert max(result.seconds.values()) < 1000
    assert min(result.seconds.values()) >= 0


def test_a_result_says_what_calculated_it(small_plan: MakePlan, backbone: Backbone) -> None:
    plan = small_plan(methods=["coop"])
    result = execute(plan, plan.runs[0], Workbench(backbone=backbone))
    assert (result.device, result.precision, result.num_threads) == ("cpu", "fp32", torch.get_num_threads())
    assert result.peak_device_memory_bytes is None


def test_what_another_plan_left_is_not_gone_on_with(small_plan: MakePlan, backbone: Backbone, tmp_path: Path) -> None:
    plan = small_plan(methods=["coop"])
    (run,) = plan.runs
    folder = run_folder(tmp_path, run)
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_text("of another plan")
    (folder / "run.json").write_text(json.dumps({"run_key": "other"}))
    (folder / "failed.json").write_text("{}")
    execute(plan, run, Workbench(backbone=backbone), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "result.json", "run.json"]


def test_a_picture_that_changed_is_another_run(
    small_plan: MakePlan, backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(split_photos, tmp_path / "split")
    results = []
    for _ in range(2):
        plan = small_plan(data=[str(tmp_path / "split")], methods=["coop"], shots=[6])
        results.append(execute(plan, plan.runs[0], Workbench(backbone=backbone)))
        first, *others = sorted((tmp_path / "split" / "train").rglob("*.png"))
        shutil.copy(others[-1], first)
    assert results[0].split_hash != results[1].split_hash
    plan = small_plan(data=[str(split_photos)], methods=["coop"], shots=[6])
    assert execute(plan, plan.runs[0], Workbench(backbone=backbone)).split_hash == results[0].split_hash


def test_a_test_picture_that_cannot_be_read_is_told_of(
    small_plan: MakePlan, backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(split_photos, tmp_path / "split")
    next((tmp_path / "split" / "test").rglob("*.png")).write_bytes(b"no picture")
    plan = small_plan(data=[str(tmp_path / "split")], methods=["coop"])
    with pytest.raises(DataError, match=r"\.png"):
        execute(plan, plan.runs[0], Workbench(backbone=backbone))


def test_rows_of_some_classes() -> None:
    from promptmix.data.records import LabelledPictures

    pictures = LabelledPictures(pictures=["a"] * 6, labels=[2, 0, 1, 2, 0, 1], class_names=("x", "y", "z"), description="")
    kept, labels = module._rows_of(pictures, (1, 2))
    assert torch.equal(kept, torch.tensor([0, 2, 3, 5]))
    assert torch.equal(labels, torch.tensor([1, 0, 1, 0]))
    assert content_key(b"x").startswith("file:")
