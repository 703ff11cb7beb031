"""Reports of protocols, from results that are made up: every number can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import statistics
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.unit.reporting.made_results import BASE_TO_NEW, COMPARE, CROSS_DATASET, base_to_new, few_shot, run

from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.evaluation.results import BenchResult, read_bench_result, write_result
from promptmix.reporting import bench_report
from promptmix.reporting.bench_report import remove_report, report_text, write_report
from promptmix.reporting.bench_runs import HARMONIC, ProtocolRuns, metric_of, sections
from promptmix.reporting.bench_tables import failed_table, tables_of
from promptmix.reporting.published import PUBLISHED_BASE_TO_NEW, PUBLISHED_FEW_SHOT, is_benchmark, published_tables
from promptmix.reporting.tables import Table

SMALL = [
    *base_to_new("CoOp", {1: (8, 4, 5), 2: (9, 5, 6)}, shots=16),
    *base_to_new("linear probe", {1: (7, None, None)}, shots=16, notes=["chose strength=1"]),
    *base_to_new("zero-shot", {1: (5, 5, 5), 2: (5, 5, 5)}),
]


def cells(table: Table) -> dict[str, list[str]]:
    """The texts of each row by its first, without the footnotes' signs."""
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def notes(table: Table, contender: str, column: str) -> tuple[str, ...]:
    return next(row for row in table.rows if row[0].text == contender)[table.header.index(column)].notes


def tables(results: list[BenchResult], baseline: str = "zero-shot", **failed: str) -> list[Table]:
    return [table for runs in sections(results, baseline, failed) for table in tables_of(runs)]


def titled(found: list[Table], beginning: str) -> Table:
    [table] = [table for table in found if table.title == beginning]
    return table


def test_a_small_report_letter_by_letter() -> None:
    assert report_text(SMALL, failed={"pets--linear-probe--16-shots--seed-2": "no disk space left"}).split("\n") == [
        "Base to new on pets, 16 shots",
        "Measured on pets: base: 10 pictures of 2 classes (the test part of pets); new: 10 pictures of 2 classes (the test part of"
        " pets); joint: 10 pictures of 2 classes (the test part of pets). Learnt from 16 shots of each class; seeds 1 and 2."
        " Backbone: small-clip (fingerprint 0123456789abcdef).",
        "Accuracy in %: mean ± standard deviation over the seeds; where all give the same, the mean alone.",
        "H: harmonic mean of base and new accuracy of each run; joint: all pictures among all names.",
        "Differences in points, paired with zero-shot by seed on the same pictures: mean ± standard deviation [95 % interval].",
        "",
        "contender                 base         new               H       joint       H less that of zero-shot      better in",
        "------------------  ----------  --------------  ----------  --------------  -----------------------------  ---------",
        "zero-shot                 50.0        50.0            50.0        50.0                              -              -",
        "CoOp                85.0 ± 7.1  45.0 ± 7.1 (a)  58.8 ± 7.7  55.0 ± 7.1      +8.8 ± 7.7 [-60.8, +78.4]         2 of 2",
        "linear probe (b,c)        70.0         n/a (d)         n/a         n/a (e)                        n/a (f)        n/a",
        "",
        "(a) below zero-shot on the same pictures, seed 1",
        "(b) seed 1 only; seed 2 failed: no disk space left",
        "(c) chose strength=1",
        "(d) linear probe knows no class of new",
        "(e) linear probe knows no class of joint",
        "(f) 1 run without a pair left out",
        "",
        "",
        "Runs that failed",
        "1 run failed and is in no mean above.",
        "",
        "run                                   why",
        "------------------------------------  ------------------",
        "pets--linear-probe--16-shots--seed-2  no disk space left",
        "",
    ]


def test_few_shot_tables_have_mean_deviation_and_interval_by_shots() -> None:
    results = [
        *few_shot("CoOp", {1: 6, 2: 7, 3: 8}, shots=16),
        *few_shot("CoOp", {1: 6, 2: 6, 3: 6}, shots=1),
        *few_shot("zero-shot", {1: 5, 2: 5, 3: 5}),
    ]
    found = tables(results)
    accuracy = titled(found, "Few-shot accuracy on pets")
    assert accuracy.header == ("contender", "1 shot", "16 shots")
    assert cells(accuracy) == {
        # Zero-shot learns nothing: it is the same for every number of shots.
        "zero-shot": ["50.0", "50.0"],
        # t of two degrees of freedom is 4.303; 4.303 * 10 / sqrt(3) = 24.8.
        "CoOp": ["60.0", "70.0 ± 10.0 [45.2, 94.8]"],
    }
    assert accuracy.footnotes() == {}
    difference = titled(found, "Few-shot accuracy on pets: difference to zero-shot")
    assert cells(difference) == {"CoOp": ["+10.0 3 of 3", "+20.0 ± 10.0 [-4.8, +44.8] 3 of 3"]}
    assert accuracy.above[0] == (
        "Measured on pets: 10 pictures of 2 classes (the test part of pets). Learnt from 1 and 16 shots of each class; seeds 1, 2 and 3."
        " Backbone: small-clip (fingerprint 0123456789abcdef)."
    )


def test_one_seed_has_neither_deviation_nor_interval_and_the_table_says_so() -> None:
    results = [*few_shot("CoOp", {1: 6}), *few_shot("zero-shot", {1: 5})]
    accuracy = titled(tables(results), "Few-shot accuracy on pets")
    assert cells(accuracy) == {"zero-shot": ["50.0"], "CoOp": ["60.0"]}
    assert "One seed: there is no deviation and no interval." in accuracy.above
    assert cells(tables(results)[1]) == {"CoOp": ["+10.0 1 of 1"]}


def test_missing_and_failed_seeds_are_marked_wherever_the_mean_is() -> None:
    results = [
        *few_shot("CoOp", {1: 6, 2: 7, 3: 8}, shots=2),
        *few_shot("CoOp", {1: 6}, shots=16),
        *few_shot("KgCoOp", {1: 6, 3: 7}, shots=2),
        *few_shot("zero-shot", {1: 5, 2: 5, 3: 5}),
    ]
    found = tables(results, **{"pets--coop--16-shots--seed-2": "out of memory", "pets--kgcoop--16-shots--seed-1": "no space"})
    accuracy = titled(found, "Few-shot accuracy on pets")
    assert notes(accuracy, "CoOp", "16 shots") == ("seed 1 only; seed 3 missing; seed 2 failed: out of memory",)
    assert notes(accuracy, "KgCoOp", "2 shots") == ("seeds 1 and 3 only; seed 2 missing",)
    # Its other runs tell what the run that failed is called.
    assert cells(accuracy)["KgCoOp"] == ["65.0 ± 7.1 [1.5, 128.5]", "-"]
    assert notes(accuracy, "KgCoOp", "16 shots") == ("seeds 2 and 3 missing; seed 1 failed: no space",)
    assert notes(accuracy, "CoOp", "2 shots") == notes(accuracy, "zero-shot", "2 shots") == ()
    costs = titled(found, "Costs on pets, 16 shots")
    assert notes(costs, "CoOp", "contender") == ("seed 1 only; seed 3 missing; seed 2 failed: out of memory",)


def test_seeds_below_zero_shot_are_marked_and_named() -> None:
    accuracy = tables([*few_shot("CoOp", {1: 4, 2: 5, 3: 3}, shots=2), *few_shot("CoOp", {1: 2, 2: 1, 3: 0}, shots=4)])[0]
    assert notes(accuracy, "CoOp", "2 shots") == ("below zero-shot on the same pictures, seeds 1 and 3",)
    assert notes(accuracy, "CoOp", "4 shots") == ("below zero-shot on the same pictures, every seed",)
    # A run's own note of it is not printed a second time.
    alone = tables(few_shot("CoOp", {7: 4}, notes=["below zero-shot on the same pictures: test"]))[0]
    assert notes(alone, "CoOp", "4 shots") == ("below zero-shot on the same pictures",)


def test_notes_of_runs_stand_below_with_the_seeds_they_hold_for() -> None:
    results = few_shot("LASP-V", {1: 6, 2: 7}, notes=["saw new names"])
    results[1] = results[1].model_copy(update={"notes": ["saw new names", "left out 2 pictures"]})
    accuracy = tables(results)[0]
    assert notes(accuracy, "LASP-V", "4 shots") == ("saw new names", "left out 2 pictures (seed 2)")


def test_a_refused_part_has_its_reason() -> None:
    [table] = [one for one in tables(SMALL) if one.main]
    assert cells(table)["linear probe"][1:4] == ["n/a", "n/a", "n/a"]
    assert notes(table, "linear probe", "new") == ("linear probe knows no class of new",)
    quality = titled(tables(SMALL), "Other metrics on pets, 16 shots")
    rows = [[cell.text for cell in row] for row in quality.rows if row[0].text == "linear probe"]
    assert [row[1] for row in rows] == ["base", "new", "joint"]
    assert rows[1][2:] == ["n/a"] * 4


def test_both_averages_over_data_sets_say_which_is_which() -> None:
    """Base 0.8 and 0.6, new 0.4 and 0.6: H of the averages 58.3, average of the H 56.7."""
    results = [
        *base_to_new("CoOp", {1: (8, 4, 5)}, zero_right=4),
        *base_to_new("CoOp", {1: (6, 6, 5)}, dataset="food", zero_right=6),
    ]
    table = titled(tables(results), "Base to new, average of 2 data sets, 4 shots")
    row = dict(zip(table.header[1:], cells(table)["CoOp"], strict=True))
    assert (row["base"], row["new"], row["joint"]) == ("70.0", "50.0", "50.0")
    assert (row["H of the averages"], row["average of the H"]) == ("58.3", "56.7")
    # Zero-shot has no run of its own here, but was measured in each: its H is 0.4 and 0.6. 53.3 - 40 and 60 - 60.
    assert (row["average of the H less that of zero-shot"], row["better in"]) == ("+6.7", "1 of 2")
    assert any("H of the averages: harmonic mean of the average base" in line for line in table.above)
    assert notes(table, "CoOp", "joint") == ("below zero-shot on the same pictures (food)",)


def test_an_average_without_one_of_the_data_sets_is_none() -> None:
    results = [
        *few_shot("CoOp", {1: 6, 2: 8}),
        *few_shot("CoOp", {1: 4, 2: 8}, dataset="food", zero_right=4),
        *few_shot("KgCoOp", {1: 6, 2: 7}),
        *few_shot("CLIP-LoRA", {1: 6, 2: 8}),
        *few_shot("CLIP-LoRA", {1: 4}, dataset="food", zero_right=4),
    ]
    table = titled(tables(results), "Few-shot accuracy, average of 2 data sets")
    # Averaged for each seed first: 0.5 and 0.8.
    assert cells(table)["CoOp"] == ["65.0 ± 21.2 [-125.6, 255.6]"]
    assert cells(table)["KgCoOp"] == ["n/a"]
    assert notes(table, "KgCoOp", "4 shots") == ("not measured on food", "seeds 1 and 2 missing (food)")
    # Only the seed that both data sets have counts, and the reader is told.
    assert cells(table)["CLIP-LoRA"] == ["50.0"]
    assert notes(table, "CLIP-LoRA", "4 shots") == ("seed 1 only; seed 2 missing (food)",)


def test_a_transfer_has_source_targets_and_their_average() -> None:
    results = [run("CoOp", {"food": 4, "pets": 8, "cars": 7}, protocol=CROSS_DATASET, seed=seed) for seed in (1, 2)]
    results += [run("probe", {"food": None, "pets": 9, "cars": None}, protocol=CROSS_DATASET, seed=seed) for seed in (1, 2)]
    table = titled(tables(results), "Cross-dataset transfer from pets, 4 shots")
    assert table.header == (
        "contender",
        "source: pets",
        "food",
        "cars",
        "average of the targets",
        "average less that of zero-shot",
        "better in",
    )
    assert cells(table)["CoOp"] == [
        "80.0",
        "40.0",
        "70.0",
        "55.0",
        "+5.0",
        "2 of 2",
    ]
    assert cells(table)["probe"][1:4] == ["n/a", "n/a", "n/a"]
    assert notes(table, "CoOp", "food") == ("below zero-shot on the same pictures, every seed",)
    named_source = [run("CoOp", {"chalk": 4, "source": 8}, protocol="domain")]
    assert tables(named_source)[0].header[1:3] == ("source: source", "chalk")


def test_a_comparison_has_seconds_and_parameters() -> None:
    results = [*few_shot("CoOp", {1: 6, 2: 8}, protocol=COMPARE), *few_shot("zero-shot", {1: 5, 2: 5}, protocol=COMPARE)]
    table = titled(tables(results), "Comparison on pets, 4 shots")
    assert table.header == (
        "contender",
        "accuracy",
        "less that of zero-shot",
        "better in",
        "seconds in all",
        "trained parameters",
    )
    (caveat,) = [line for line in table.above if line.startswith("Seconds: ")]
    assert "unless these were in the cache" in caveat
    assert any(caveat in line for line in titled(tables(results), "Costs on pets, 4 shots").above)
    assert cells(table) == {
        "zero-shot": ["50.0", "-", "-", "13.5 ± 0.7", "0"],
        "CoOp": ["70.0 ± 14.1 [-57.1, 197.1]", "+20.0 ± 14.1 [-107.1, +147.1]", "2 of 2", "13.5 ± 0.7", "2,048"],
    }


def test_costs_and_other_metrics() -> None:
    results = few_shot("CoOp", {1: 6, 2: 8})
    costs = titled(tables(results), "Costs on pets, 4 shots")
    assert dict(zip(costs.header[1:], cells(costs)["CoOp"], strict=True)) == {
        "seconds training": "11.5 ± 0.7",
        "seconds in all": "13.5 ± 0.7",
        "peak memory": "300",
        "trained parameters": "2,048",
        "text encodings a step": "12",
    }
    quality = titled(tables(results), "Other metrics on pets, 4 shots")
    measures = [result.measures["test"] or {} for result in results]
    likelihood = [one["negative_log_likelihood"] for one in measures]
    errors = [100 * one["expected_calibration_error"] for one in measures]
    assert cells(quality)["CoOp"] == [
        "test",
        "70.0 ± 14.1 [-57.1, 197.1]",
        "70.0 ± 14.1",
        f"{statistics.fmean(errors):.1f} ± {statistics.stdev(errors):.1f}",
        f"{statistics.fmean(likelihood):.3f} ± {statistics.stdev(likelihood):.3f}",
    ]


def test_pairs_need_the_same_seed_pictures_and_classes() -> None:
    results = [
        *few_shot("CoOp", {1: 6, 2: 8, 3: 9}),
        *few_shot("KgCoOp", {1: 7, 2: 7}),
        *few_shot("KgCoOp", {3: 7}, num_pictures=12),
        *few_shot("KgCoOp", {4: 7}),
    ]
    [runs] = sections(results, "KgCoOp", {})
    found = runs.difference("pets", "CoOp", 4, metric_of("test"))
    assert found.difference is not None
    assert (found.difference.count, found.num_better, found.num_alone) == (2, 1, 2)
    assert found.difference.mean == pytest.approx((-0.1 + 0.1) / 2)
    [accuracy, *_] = tables(results)
    assert accuracy.above[0].startswith("Measured on pets: 10 to 12 pictures of 2 classes")


def test_without_its_runs_zero_shot_is_what_every_run_measured_beside_its_own() -> None:
    [runs] = sections(
        base_to_new("CoOp", {1: (8, 4, 5), 2: (9, 5, 6)}, zero_right={"base": 4, "new": 6, "joint": 5}), "zero-shot", {}
    )
    assert runs.pairs("pets", "CoOp", 4, HARMONIC)[1] == pytest.approx({1: 0.48, 2: 0.48})


def test_test_pictures_that_vary_with_the_seed_are_said_to() -> None:
    results = [
        run("CoOp", {"test": 6}, seed=seed, descriptions={"test": f"10 pictures of pets, held out by seed {seed}"})
        for seed in (1, 2)
    ]
    assert "10 pictures of 2 classes (others for every seed)" in tables(results)[0].above[0]


def test_all_pictures_are_a_number_of_shots_of_their_own() -> None:
    results = [*few_shot("CoOp", {1: 6}, shots=None), *few_shot("CoOp", {1: 5}, shots=8), *few_shot("zero-shot", {1: 5})]
    accuracy = tables(results)[0]
    assert accuracy.header == ("contender", "8 shots", "all pictures")
    assert cells(accuracy) == {"zero-shot": ["50.0", "50.0"], "CoOp": ["50.0", "60.0"]}
    assert "Learnt from no shots;" in tables(few_shot("zero-shot", {1: 5}))[0].above[0]


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_runs_of_a_contender_does_not_matter(random: Random) -> None:
    coop = base_to_new("CoOp", {1: (8, 4, 5), 2: (9, 5, 6), 3: (7, 7, 7)})
    zero = base_to_new("zero-shot", {1: (5, 5, 5), 2: (6, 5, 5), 3: (5, 5, 5)})
    expected = report_text([*coop, *zero])
    random.shuffle(coop)
    random.shuffle(zero)
    assert report_text([*coop, *zero]) == report_text([*zero, *coop]) == expected


def test_published_averages_stand_apart_and_only_beside_the_fields_data_sets(tmp_path: Path) -> None:
    own = few_shot("CoOp", {1: 6})
    assert published_tables(sections(own, "zero-shot", {})[0]) == []
    assert "Published" not in report_text(own)
    field = [*few_shot("CoOp", {1: 6}, dataset="OxfordPets"), *base_to_new("CoOp", {1: (8, 4, 5)}, dataset="dtd")]
    text = report_text(field)
    assert text.count("Published, averages of 11 data sets on ViT-B/16, not measured here") == 2
    assert text.index("Published:") > text.index("Base to new on dtd")
    markdown = write_report(field, tmp_path / "report").markdown.read_text(encoding="utf-8")
    assert markdown.count("## Published\n\n### Published: ") == 2
    assert "| PromptSRC | 84.26 | 76.10 | 79.97 | 2307.06948 |" in markdown
    assert "| CLIP-LoRA | 72.2 | 75.4 | 77.3 | 80.1 | 82.9 | 2405.18541 |" in markdown


def test_published_harmonic_means_are_those_of_the_averages() -> None:
    for one in PUBLISHED_BASE_TO_NEW:
        assert statistics.harmonic_mean([one.base, one.new]) == pytest.approx(one.harmonic_mean, abs=0.011)
    for method in PUBLISHED_FEW_SHOT:
        assert list(method.by_shots) == [1, 2, 4, 8, 16]
        assert list(method.by_shots.values()) == sorted(method.by_shots.values())


@pytest.mark.parametrize(
    "name", ["imagenet", "oxford-pets", "oxford_pets", "OxfordPets", "DTD", "sun397", "Flowers102", "fgvc-aircraft"]
)
def test_the_fields_data_sets_are_known_however_they_are_written(name: str) -> None:
    assert is_benchmark(name)
    assert not is_benchmark(f"my {name}")


def test_a_report_is_tables_a_long_table_and_plots(tmp_path: Path) -> None:
    results = [
        *SMALL,
        *few_shot("CoOp", {1: 6, 2: 8}, shots=1),
        *few_shot("CoOp", {1: 6, 2: 8}, shots=2),
        *few_shot("CoOp", {1: 6, 2: 8}, protocol=COMPARE),
        *[run("CoOp", {"pets": 8, "food": 4}, protocol=CROSS_DATASET, seed=seed) for seed in (1, 2)],
    ]
    files = write_report(results, tmp_path / "deep" / "report", failed={"pets--mocoop--1-shot--seed-1": "out of memory"})
    assert sorted(path.name for path in files.plots) == [
        "base-to-new-calibration-pets.png",
        "base-to-new-classes-pets.png",
        "base-to-new-scatter.png",
        "compare-accuracy-pets.png",
        "compare-calibration-pets.png",
        "compare-classes-pets.png",
        "cross-dataset-parts-pets.png",
        "few-shot-calibration-pets.png",
        "few-shot-classes-pets.png",
        "few-shot-curves.png",
    ]
    for path in files.plots:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    markdown = files.markdown.read_text(encoding="utf-8")
    assert [line for line in markdown.split("\n") if line.startswith("## ")] == [
        "## Few-shot classification",
        "## Base to new classes",
        "## Cross-dataset transfer",
        "## Comparison",
        "## Failures",
    ]
    assert all(f"]({path.name})" in markdown for path in files.plots)
    assert "| pets--mocoop--1-shot--seed-1 | out of memory |" in markdown
    latex = files.latex.read_text(encoding="utf-8")
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == markdown.count("\n### ")
    assert {path.name for path in files.markdown.parent.iterdir()} == {
        "report.md",
        "report.tex",
        "results.csv",
        "report.json",
        *(path.name for path in files.plots),
    }
    assert [path.name for path in files.markdown.parent.parent.iterdir()] == ["report"]


def test_plots_say_who_lacks_a_seed(tmp_path: Path) -> None:
    results = [*few_shot("CoOp", {1: 6, 2: 7}), *few_shot("KgCoOp", {2: 7})]
    markdown = write_report(results, tmp_path / "report").markdown.read_text(encoding="utf-8")
    title = "Few-shot accuracy on test pictures (mean of seeds 1 and 2, for some numbers fewer: KgCoOp, backbone small-clip)"
    assert f"![{title}](few-shot-curves.png)" in markdown


def test_the_long_table_has_a_row_a_run_and_part_at_full_precision(tmp_path: Path) -> None:
    results = [*SMALL, *few_shot("CoOp", {3: 1}, shots=2, num_pictures=3, zero_right=2)]
    rows = list(csv.DictReader(io.StringIO(write_report(results, tmp_path / "r").csv.read_text(encoding="utf-8"))))
    assert len(rows) == 5 * 3 + 1
    # Sections are in the order of the protocols.
    assert (rows[0]["accuracy"], rows[0]["zero_shot_accuracy"]) == (repr(1 / 3), repr(2 / 3))
    assert (rows[0]["below_zero_shot"], rows[0]["harmonic_mean"], rows[0]["shots"]) == ("True", "", "2")
    refused = next(row for row in rows if row["contender"] == "linear probe" and row["part"] == "new")
    assert (refused["accuracy"], refused["refusal"]) == ("", "linear probe knows no class of new")
    assert refused["notes"] == "chose strength=1"
    coop = next(row for row in rows if row["run_id"] == "pets--coop--16-shots--seed-1" and row["part"] == "base")
    assert float(coop["harmonic_mean"]) == statistics.harmonic_mean([0.8, 0.4])
    assert (coop["seconds_training"], coop["peak_memory_bytes"], coop["backbone_name"]) == ("11.0", str(300 << 20), "small-clip")


def test_results_are_reported_as_they_were_written(tmp_path: Path) -> None:
    """Through the file of a run nothing is lost."""
    for number, result in enumerate(SMALL):
        write_result(tmp_path / f"{number}.json", result)
    read = [read_bench_result(tmp_path / f"{number}.json") for number in range(len(SMALL))]
    assert report_text(read) == report_text(SMALL)
    first, second = (write_report(results, tmp_path / name) for results, name in ((SMALL, "a"), (read, "b")))
    for ours, theirs in zip((first.markdown, first.csv, *first.plots), (second.markdown, second.csv, *second.plots), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_older_report_is_replaced_as_a_whole_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report(few_shot("CoOp", {1: 6}, dataset="old data"), folder)
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    assert (folder / "few-shot-classes-old-data.png").is_file()
    files = write_report(few_shot("CoOp", {1: 6}, dataset="new data"), folder)
    names = {path.name for path in (files.markdown, files.latex, files.csv, *files.plots)}
    assert {path.name for path in folder.iterdir()} == {*names, "report.json", "mine.txt"}
    assert "few-shot-classes-new-data.png" in names
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["files"] == sorted(names)


def test_files_that_are_no_reports_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "results.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"no report's: results\.csv; nothing there is overwritten"):
        write_report(SMALL, folder)
    # A list that names files outside is not ours either.
    (folder / "report.json").write_text(
        json.dumps({"format": "promptmix-report-1", "files": ["results.csv", "../x"]}), encoding="utf-8"
    )
    with pytest.raises(DataError, match="no report's"):
        write_report(SMALL, folder)
    assert (folder / "results.csv").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"report"}
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="is a file"):
        write_report(SMALL, tmp_path / "file")


def test_a_failure_leaves_the_older_report_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "report"
    write_report(SMALL, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> str:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench_report, "csv_text", fail)
    with pytest.raises(RuntimeError, match="broken"):
        write_report(few_shot("CoOp", {1: 6}), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_that_was_stopped_half_way_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "report"
    replace = os.replace

    def stop(source: Path, target: Path) -> None:
        if Path(target) == folder / "report.md":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(SMALL, folder)
    monkeypatch.undo()
    assert any(path.suffix == ".png" for path in folder.iterdir())
    assert not (folder / "report.md").exists()
    # The plots that are there are known to be a report's, so that the next one may take their place.
    assert write_report(SMALL, folder).markdown.is_file()


def test_names_that_no_file_may_have_are_written_out(tmp_path: Path) -> None:
    hostile = ["a/../b", "A/..\\B", "狐 fox", "...", "x" * 300]
    results = [one for name in hostile for one in few_shot("CoOp | & $x$ <b>", {1: 6}, dataset=name)]
    files = write_report(results, tmp_path / "report")
    names = [path.name for path in files.plots]
    assert len({name.casefold() for name in names}) == len(names) == 2 * len(hostile) + 1
    assert {"few-shot-classes-a-..-b.png", "few-shot-classes-a-..-b-2.png", "few-shot-classes-狐-fox.png"} <= set(names)
    assert all(path.is_file() and path.parent == tmp_path / "report" for path in files.plots)
    assert "CoOp \\| & $x$ \\<b>" in files.markdown.read_text(encoding="utf-8")
    assert r"CoOp \textbar{} \& \$x\$ \textless{}b\textgreater{}" in files.latex.read_text(encoding="utf-8")


def test_what_cannot_be_reported_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="there is no result to report; run `promptmix bench few-shot`"):
        report_text([])
    with pytest.raises(DataError, match="all 2 runs failed, the first with 'no space'"):
        report_text([], failed={"a": "no space", "b": "x"})
    other = run("CoOp", {"test": 6}, seed=2, backbone_name="large-clip")
    with pytest.raises(ConfigError, match=r"2 backbones: small-clip \(0123456789abcdef\), large-clip \(0123456789abcdef\)"):
        report_text([run("CoOp", {"test": 6}), other])
    with pytest.raises(ConfigError, match="2 backbones"):
        report_text([run("CoOp", {"test": 6}), run("CoOp", {"test": 6}, seed=2, backbone_fingerprint="f")])
    with pytest.raises(ConfigError, match=r"no run is of the baseline 'coop'; did you mean 'CoOp'\? Allowed: zero-shot, CoOp"):
        report_text([run("CoOp", {"test": 6})], baseline="coop")
    with pytest.raises(DataError, match="runs a and b are both CoOp on pets with 4 shots and seed 1"):
        report_text([run("CoOp", {"test": 6}, run_id="a"), run("CoOp", {"test": 6}, run_id="b")])
    with pytest.raises(DataError, match=r"protocol 'few-shots'; did you mean 'few-shot'\?"):
        report_text([run("CoOp", {"test": 6}, protocol="few-shots")])
    damaged = run("CoOp", {"test": 6})
    kept = {name: value for name, value in (damaged.measures["test"] or {}).items() if name not in ("accuracy", "calibration")}
    damaged = damaged.model_copy(update={"measures": {"test": kept}})
    with pytest.raises(CheckpointError, match="run pets--coop--4-shots--seed-1 has no accuracy, calibration for 'test'"):
        report_text([damaged])


def test_protocols_have_a_section_each_in_a_fixed_order() -> None:
    results = [*few_shot("CoOp", {1: 6}, protocol=COMPARE), *SMALL, *few_shot("CoOp", {1: 6})]
    assert [runs.protocol for runs in sections(results, "zero-shot", {})] == ["few-shot", BASE_TO_NEW, COMPARE]


def test_only_what_learns_and_lacks_no_seed_can_be_the_best() -> None:
    results = [
        *few_shot("zero-shot", {1: 9, 2: 9}),
        *few_shot("CoOp", {1: 6, 2: 7}),
        *few_shot("KgCoOp", {1: 8}),
        *few_shot("LASP", {1: 7, 2: 7}),
    ]
    assert ProtocolRuns("few-shot", results, "zero-shot", {}).best("pets", 4, metric_of("test")) == "LASP"
    assert ProtocolRuns("few-shot", results[:2], "zero-shot", {}).best("pets", None, metric_of("test")) is None


def test_without_a_failure_there_is_no_table_of_them() -> None:
    assert failed_table({}) == []
    assert failed_table({"a": "x", "b": "y"})[0].above == ("2 runs failed and are in no mean above.",)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "promptmix-bench-result-1"),
        (("format",), None),
        (("measures", "test", "accuracy"), 1.5),
        (("measures", "test", "accuracy"), "0.5"),
        (("measures", "test", "accuracy"), None),
        (("measures", "test", "negative_log_likelihood"), float("nan")),
        (("measures", "test", "per_class"), {"class 0": -0.1}),
        (("zero_shot", "test", "num_pictures"), 0),
        (("seconds", "training"), None),
    ],
)
def test_a_result_with_numbers_that_no_measurement_gives_is_refused(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    """``None`` stands for a key that is missing."""
    path = tmp_path / "result.json"
    write_result(path, run("coop", {"test": 7, "other": None}))
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert read_bench_result(path).contender == "coop"
    *outer, name = place
    changed = whole
    for key in outer:
        changed = changed[key]
    changed.pop(name)
    if value is not None:
        changed[name] = value
    path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} is not a whole result"):
        read_bench_result(path)


def test_a_report_that_is_removed_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    write_report([run("coop", {"test": 7})], tmp_path / "report", unfinished="1 of 2 runs have no result yet.")
    for name in ("report.md", "report.tex"):
        assert "1 of 2 runs have no result yet." in (tmp_path / "report" / name).read_text(encoding="utf-8")
    (tmp_path / "report" / "mine.txt").write_text("a person's")
    remove_report(tmp_path / "report")
    assert [entry.name for entry in (tmp_path / "report").iterdir()] == ["mine.txt"]
    (tmp_path / "report" / "mine.txt").unlink()
    remove_report(tmp_path / "report")
    assert not (tmp_path / "report").exists()
