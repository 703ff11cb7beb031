"""The demo's task, its sentence about who leads, and what it writes; quick, with few methods and one seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptmix import demo
from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.demo import DemoTask, MethodScores
from promptmix.errors import DataError
from promptmix.methods.registry import method_class
from promptmix.model_folder import read_model
from promptmix.protocols.contenders import read_contenders
from promptmix.training.fit import RunConfig


def scores_of(harmonic: float | None) -> MethodScores:
    values = None if harmonic is None else [harmonic, harmonic]
    return MethodScores(base=[0.5, 0.5], new=values, harmonic=values, by_style={}, num_parameters=1000, seconds=1.0, models=[])


def test_the_task_has_other_classes_than_the_one_its_recipes_were_chosen_on() -> None:
    ours, validation = demo.draw_task((1,)), demo.draw_task((1,), validation=True)
    assert len({*ours.base, *ours.new, *validation.base, *validation.new}) == 80
    assert len(ours.training[1]) == 16 * 20
    assert {one.style for one in ours.training[1]} == {"neon", "cross-stitch"}
    trained = {one.image.tobytes() for one in ours.training[1]}
    assert trained.isdisjoint(one.image.tobytes() for one in ours.test_base)


def test_the_sentence_follows_the_numbers() -> None:
    named = {"zero-shot": scores_of(0.5), "linear probe": scores_of(None), "mixture of prompts": scores_of(0.6)}
    assert (
        demo.verdict(named) == "A mixture of prompts leads by harmonic mean: 'mixture of prompts', 10.0 points above zero-shot."
    )
    beaten = {**named, "CoOp": scores_of(0.7)}
    assert (
        demo.verdict(beaten)
        == "No mixture of prompts leads here: CoOp is 10.0 points above 'mixture of prompts' by harmonic mean."
    )


def test_the_recipes_are_those_of_the_protocols() -> None:
    shipped = {one.method: one for one in read_contenders("bundled", "base-to-new", None)}
    for name, options in demo.METHODS.items():
        ours, theirs = RunConfig.model_validate(options), shipped[options["method"]]
        assert (ours.options, ours.recipe) == (theirs.options, theirs.recipe), name
        assert ours.augmentation.views == theirs.augmentation.views or method_class(ours.method).learns != "by gradient", name


def test_the_table_says_where_a_method_has_no_number() -> None:
    assert demo.table_rows({"linear probe": scores_of(None)}) == [
        ("linear probe", "50.0", "n/a", "n/a", "1,000", "1.0"),
    ]


@pytest.fixture(scope="module")
def small() -> tuple[DemoTask, Backbone, dict[str, MethodScores]]:
    backbone, whole = load_backbone("bundled", device="cpu"), demo.draw_task((1,))
    task = DemoTask(
        base=whole.base[:4],
        new=whole.new[:4],
        training={1: [one for one in whole.training[1] if one.class_name in whole.base[:4]]},
        test_base=[one for one in whole.test_base if one.class_name in whole.base[:4]],
        test_new=[one for one in whole.test_new if one.class_name in whole.new[:4]],
    )
    methods = {name: demo.METHODS[name] for name in ("zero-shot", "linear probe")}
    methods[demo.SAVED_METHOD] = {**demo.METHODS[demo.SAVED_METHOD], "recipe": {"epochs": 3}}
    return task, backbone, demo.compare(task, backbone, None, methods)


def test_methods_are_compared_on_base_and_on_new_classes(small: tuple[DemoTask, Backbone, dict[str, MethodScores]]) -> None:
    _, _, scores = small
    assert scores["linear probe"].new is None
    assert scores["zero-shot"].num_parameters == 0
    for one in scores.values():
        assert 0 < one.base[0] <= 1
        # Every style has as many test pictures, so the mean over the styles is the accuracy.
        assert sum(one.by_style.values()) / len(one.by_style) == pytest.approx(one.base[0])
    assert scores[demo.SAVED_METHOD].new is not None


def test_all_is_written_and_nothing_is_replaced_unasked(
    small: tuple[DemoTask, Backbone, dict[str, MethodScores]], tmp_path: Path
) -> None:
    task, backbone, scores = small
    out = tmp_path / "demo"
    demo.write_demo(out, task, backbone, None, scores, overwrite=False)
    assert sorted(entry.name for entry in out.iterdir()) == [
        "demo.json", "methods.png", "model", "pictures", "predictions.png", "router.png", "styles.png", "table.md"
    ]  # fmt: skip
    assert json.loads((out / "demo.json").read_text())["methods"]["zero-shot"]["base"] == scores["zero-shot"].base
    assert read_model(out / "model").class_names == task.base
    assert len(list((out / "pictures" / "train").glob("*/*.png"))) == 64
    (out / "mine.txt").write_text("a person's")
    with pytest.raises(DataError, match="--overwrite"):
        demo.write_demo(out, task, backbone, None, scores, overwrite=False)
    demo.write_demo(out, task, backbone, None, scores, overwrite=True)
    assert (out / "mine.txt").read_text() == "a person's"
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not a demo's"):
        demo.check_free(tmp_path, overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        demo.check_free(tmp_path / "thesis.txt", overwrite=True)


def test_a_failure_leaves_the_demo_that_was_there(
    small: tuple[DemoTask, Backbone, dict[str, MethodScores]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, backbone, scores = small
    out = tmp_path / "demo"
    out.mkdir()
    (out / "demo.json").write_text("{}")

    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "write_json", full)
    with pytest.raises(DataError, match="no disk space"):
        demo.write_demo(out, task, backbone, None, scores, overwrite=True)
    assert (out / "demo.json").read_text() == "{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]
