"""Plans: the runs of each protocol, their names, what makes a run another run, and the folder that belongs to one plan."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from promptmix.backbones.base import Backbone
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.protocols.base import Part, Plan, open_all, run_id, start_plan
from promptmix.protocols.datasets import DataSpec
from promptmix.protocols.execute import Workbench, execute
from promptmix.protocols.make_plan import make_plan

MakePlan = Callable[..., Plan]


@pytest.mark.parametrize(
    ("pieces", "name"),
    [
        (("pictograms", "coop", 16, 1), "pictograms--coop--16-shots--seed-1"),
        (("pictograms:neon", "zero-shot", None, 3), "pictograms-neon~428d7c41--zero-shot--seed-3"),
        (("My Photos/2024", "CoOp, 4 words", 1, 0), "my-photos-2024~59a99ccd--coop-4-words~94ce24c3--1-shot--seed-0"),
        (("..", "写真", 2, 1), "unnamed~411e1b03--unnamed~e3706b90--2-shots--seed-1"),
    ],
)
def test_the_name_of_a_run_is_fit_for_a_folder(pieces: tuple[str, str, int | None, int], name: str) -> None:
    assert run_id(*pieces) == name


def test_two_runs_never_share_a_folder() -> None:
    """Not even where a file system takes capital and small letters for the same, or where names are no Latin letters."""
    names = [
        "coop",
        "CoOp",
        "COOP",
        "Фото",
        "照片",
        "写真",
        "a b",
        "a-b",
        "a--b",
        "-a-b",
        "x" * 300,
        "x" * 301,
        "..",
        ".",
        "a.",
        "é",
        "e\u0301",
    ]
    ids = [run_id(data, contender, shots, 1) for data in names for contender in names for shots in (None, 1, 16)]
    assert len({one.casefold() for one in ids}) == len(ids)
    assert all(re.fullmatch("[a-z0-9._~-]{1,200}", one) for one in ids)
    # Shots and seed are not taken for a part of a name, nor a name for them.
    assert run_id("x", "a--16-shots", None, 1) != run_id("x", "a", 16, 1)


def test_a_plan_with_two_runs_of_one_name_is_refused(small_plan: MakePlan) -> None:
    plan = small_plan()
    for same in (plan.runs[0].run_id, plan.runs[0].run_id.upper()):
        twice = [plan.runs[0], plan.runs[1].model_copy(update={"run_id": same})]
        values = {**plan.model_dump(mode="json"), "runs": [run.model_dump(mode="json") for run in twice]}
        with pytest.raises(ValidationError, match="two runs are called"):
            Plan.model_validate_json(json.dumps(values))


def test_contenders_and_folders_that_differ_in_letters_only_have_runs_of_their_own(
    small_plan: MakePlan, split_photos: Path, tmp_path: Path
) -> None:
    for folder in ("Фото", "照片"):
        shutil.copytree(split_photos, tmp_path / "own" / folder)
    (tmp_path / "mine.yaml").write_text("label: CoOp\nmethod: coop\n")
    data = [str(tmp_path / "own" / folder) for folder in ("Фото", "照片")]
    plan = small_plan(data=data, methods=["coop", str(tmp_path / "mine.yaml")])
    assert len({run.run_id.casefold() for run in plan.runs}) == len(plan.runs) == 4


def test_few_shot_is_every_contender_shots_and_seed(small_plan: MakePlan) -> None:
    plan = small_plan(shots=[1, 4], seeds=[1, 2])
    assert [run.run_id for run in plan.runs] == [
        "split--zero-shot--seed-1",
        "split--zero-shot--seed-2",
        "split--coop--1-shot--seed-1",
        "split--coop--1-shot--seed-2",
        "split--coop--4-shots--seed-1",
        "split--coop--4-shots--seed-2",
    ]
    assert {run.parts for run in plan.runs} == {(Part(name="test", data="split"),)}


def test_base_to_new_learns_one_half_and_measures_three_parts(small_plan: MakePlan) -> None:
    plan = small_plan("base-to-new", methods=["coop"])
    (run,) = plan.runs
    assert run.classes == "base"
    assert [(part.name, part.classes) for part in run.parts] == [("base", "base"), ("new", "new"), ("joint", "all")]


def test_transfer_learns_from_the_first_and_measures_all(small_plan: MakePlan, split_photos: Path, plain_photos: Path) -> None:
    plan = small_plan("cross-dataset", data=[str(split_photos), str(plain_photos)], methods=["coop"])
    (run,) = plan.runs
    assert run.data == "split"
    assert [part.name for part in run.parts] == ["split", "plain"]
    assert plan.data["plain"].spec == DataSpec(source=str(plain_photos), only_measured=True)
    with pytest.raises(ConfigError, match="two or more"):
        small_plan("cross-dataset")
    with pytest.raises(DataError, match="plain has classes that split has not"):
        small_plan("domain", data=[str(split_photos), str(plain_photos)])
    domain = small_plan("domain", data=[str(split_photos), str(split_photos / "test")], methods=["coop"])
    assert [part.name for part in domain.runs[0].parts] == ["split", "test"]


def test_what_is_done_unless_told_otherwise(backbone: Backbone) -> None:
    few_shot = make_plan("few-shot", backbone, methods=["coop"])
    assert sorted({run.shots for run in few_shot.runs if run.shots}) == [1, 2, 4, 8, 16]
    assert {run.seed for run in few_shot.runs} == {1, 2, 3}
    cross = make_plan("cross-dataset", backbone, methods=["coop"])
    assert [part.name for part in cross.runs[0].parts] == ["pictograms", "pictograms:others"]
    domain = make_plan("domain", backbone, methods=["coop"])
    assert [part.name for part in domain.runs[0].parts] == ["pictograms:seen", "pictograms:neon", "pictograms:cross-stitch"]
    assert {run.shots for run in domain.runs} == {16}


def test_compare_holds_out_pictures_where_there_is_no_test_part(backbone: Backbone, plain_photos: Path) -> None:
    plan = make_plan("compare", backbone, data=[str(plain_photos)], methods=["zero-shot"])
    assert plan.data["plain"].spec.hold_out == 0.3
    with pytest.raises(ConfigError, match="--hold-out"):
        make_plan("few-shot", backbone, data=[str(plain_photos)], methods=["zero-shot"])


def test_a_thing_named_twice_is_a_slip(small_plan: MakePlan, split_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--seeds names something twice"):
        small_plan(seeds=[1, 1])
    with pytest.raises(ConfigError, match="--data names something twice"):
        small_plan(data=[str(split_photos)] * 2)
    (tmp_path / "split").symlink_to(split_photos)
    with pytest.raises(ConfigError, match="two data sets are called 'split'"):
        open_all([DataSpec(source=str(split_photos)), DataSpec(source=str(split_photos / ".." / "split"))])


def test_base_to_new_needs_four_classes(small_plan: MakePlan, split_photos: Path, tmp_path: Path) -> None:
    for name in sorted((split_photos / "train").iterdir())[:3]:
        for part in ("train", "test"):
            (tmp_path / "few" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "few" / part / name.name).symlink_to(split_photos / part / name.name)
    with pytest.raises(DataError, match="few has 3 classes"):
        small_plan("base-to-new", data=[str(tmp_path / "few")])


def test_a_run_is_another_when_anything_it_depends_on_is(small_plan: MakePlan, plain_photos: Path) -> None:
    def keys(**options: object) -> list[str]:
        plan = small_plan(**options)
        return [plan.run_key(run) for run in plan.runs if run.contender == "coop"]

    (usual,) = keys()
    assert keys(methods=["coop"]) == [usual]
    assert keys(seeds=[1, 2])[0] == usual
    assert keys(threads=2) == [usual]
    others = [
        keys(seeds=[2]),
        keys(shots=[1]),
        keys(overrides=["recipe.epochs=2"]),
        keys(protocol="base-to-new"),
        keys(data=[str(plain_photos)], hold_out=0.3),
        keys(data=[str(plain_photos)], hold_out=0.4),
    ]
    assert len({key for found in others for key in found} | {usual}) == 7


@pytest.mark.parametrize("place", ["options", "by_data"])
def test_a_run_is_another_when_the_templates_in_the_file_of_its_bank_are(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, place: str
) -> None:
    bank, contender, out = tmp_path / "bank.yaml", tmp_path / "mine.yaml", tmp_path / "out"
    bank.write_text('groups: [["a photo of a {}."], ["a drawing of a {}."]]')
    options = {"method": "mocoop", "options": {"bank": str(bank)}}
    if place == "by_data":
        options = {"method": "mocoop", "by_data": {"split": {"options": {"bank": str(bank)}}}}
    contender.write_text(json.dumps(options))
    plan = start_plan(out, small_plan(methods=[str(contender), "coop"]), overwrite=False)
    assert start_plan(out, small_plan(methods=[str(contender), "coop"]), overwrite=False) == plan
    bank.write_text('groups: [["a photo of a {}."], ["a painting of a {}."]]')
    changed = small_plan(methods=[str(contender), "coop"])
    keys, others = ([one.run_key(run) for run in one.runs] for one in (plan, changed))
    assert keys[0] != others[0]
    assert keys[1] == others[1]
    with pytest.raises(ConfigError, match="the templates that mine takes from a file were others"):
        start_plan(out, changed, overwrite=False)
    # Neither may a plan be gone on with whose file has changed since it was read.
    with pytest.raises(DataError, match="the templates that mine takes from a file are not those of the plan any more"):
        execute(plan, plan.runs[0], Workbench(backbone=backbone))


def test_a_folder_belongs_to_one_plan(small_plan: MakePlan, tmp_path: Path) -> None:
    plan, out = small_plan(), tmp_path / "out"
    assert start_plan(out, plan, overwrite=False) == plan
    assert Plan.model_validate_json((out / "plan.json").read_bytes()) == plan
    # The first start says how many threads, for ever: sums are added up in another order by another number.
    assert start_plan(out, small_plan(threads=3), overwrite=False) == plan
    for options, message in (
        ({"seeds": [1, 2]}, "3 runs|other shots, seeds"),
        ({"methods": ["coop"]}, "its contenders are zero-shot, coop, not coop"),
        ({"overrides": ["recipe.epochs=2"]}, "the options of zero-shot were others"),
        ({"precision": "bf16"}, "its precision is auto, not bf16"),
        ({"protocol": "base-to-new"}, "its protocol is few-shot, not base-to-new"),
        ({"data": ["pictograms"]}, "its data sets are split, not pictograms"),
    ):
        with pytest.raises(ConfigError, match=message):
            start_plan(out, small_plan(**options), overwrite=False)
    (out / "runs" / "x").mkdir(parents=True)
    (out / "runs" / "x" / "run.json").write_text('{"format": "promptmix-bench-run"}')
    (out / "mine.txt").write_text("a person's")
    other = small_plan(seeds=[1, 2])
    assert start_plan(out, other, overwrite=True) == other
    assert not (out / "runs").exists()
    assert (out / "mine.txt").read_text() == "a person's"


def test_a_folder_that_is_no_bench_is_left_alone(small_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no bench's"):
        start_plan(tmp_path, small_plan(), overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        start_plan(tmp_path / "thesis.txt", small_plan(), overwrite=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text(json.dumps({"format": "promptmix-plan-0"}))
    with pytest.raises(CheckpointError, match="damaged or of another version"):
        start_plan(tmp_path / "damaged", small_plan(), overwrite=False)


def test_a_contender_that_the_backbone_cannot_have_is_left_out_or_told_of(
    small_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"contender 'maple': .*bundled"):
        small_plan(methods=["maple"])
    plan = small_plan(methods=None)
    assert "maple" not in plan.contenders
    assert "coop" in plan.contenders
    assert "left out maple" in caplog.text


def test_a_class_without_test_picture_is_told_of_and_a_part_without_any_refused(
    small_plan: MakePlan, backbone: Backbone, plain_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(plain_photos, tmp_path / "photos")
    folders = sorted((tmp_path / "photos").iterdir())
    options = {"data": [str(tmp_path / "photos")], "hold_out": 0.3, "methods": ["zero-shot"]}
    source = open_all([DataSpec(source=str(tmp_path / "photos"), hold_out=0.3)])["photos"]
    names = source.class_names
    for folder in folders:
        if folder.name in names[2:]:
            for picture in sorted(folder.iterdir())[1:]:
                picture.unlink()
    assert small_plan(**options).runs
    with pytest.raises(DataError, match=f"new of photos has no test picture at all .{names[2]}, {names[3]}.; add pictures"):
        small_plan("base-to-new", **options)
    plan = small_plan(**options)
    assert f"no test picture of {names[2]}, {names[3]}" in execute(plan, plan.runs[0], Workbench(backbone=backbone)).notes
    (tmp_path / "photos" / names[2] / "more.png").write_bytes(next((tmp_path / "photos" / names[0]).iterdir()).read_bytes())
    assert small_plan("base-to-new", **options).runs


def test_a_baseline_is_a_contender_or_zero_shot(small_plan: MakePlan) -> None:
    assert small_plan(methods=["coop"], baseline="zero-shot") == small_plan(methods=["coop"], baseline="coop")
    with pytest.raises(ConfigError, match=r"--baseline 'tip' is no contender of this bench.*Allowed: zero-shot, coop$"):
        small_plan(methods=["coop"], baseline="tip")


def test_data_without_a_name_is_refused(small_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="name is empty"):
        small_plan(data=[""])
