"""predict --out: part files that are the same however the work was cut, stopped or shared, and a word on each bad picture."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.new_processes import Command

from promptmix.data.pictograms import draw_set
from promptmix.inference import bulk, bulk_parts
from promptmix.inference.bulk import Shard

from .test_sources import KINDS, made

pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet here")

Promptmix = Callable[..., Any]
NUMBER = 90


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders; two of them cannot be read, one has a name that is hard to write down."""
    folder = tmp_path_factory.mktemp("many")
    drawn_set = sorted(draw_set(("anchor", "cat", "skull"), ("stamp",), NUMBER // 3, 5), key=lambda drawn: drawn.class_name)
    for number, drawn in enumerate(drawn_set):
        path = folder / drawn.class_name / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        drawn.image.save(path)
    (folder / "cat" / "040.png").write_bytes(b"no picture")
    (folder / "skull" / "zz.png").write_bytes(b"")
    (folder / "anchor" / "000.png").rename(folder / "anchor" / 'a, "b"\r\n\u2028ü \udcff.png')
    return folder


def files_of(out: Path) -> dict[str, bytes]:
    """What must be the same: the part files and those on bad pictures."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name.startswith(("part-", "bad-"))}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet part."""
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.ParquetFile(path).read().to_pylist()
    return rows


def all_rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("part-*.parquet")) for row in rows_of(path)]


@pytest.fixture(scope="module")
def whole(promptmix: Promptmix, trained: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted job."""
    out = tmp_path_factory.mktemp("whole") / "said"
    done = promptmix("predict", trained, many, "--out", out, "--rows-per-file", "20", "--quiet")
    done.works()
    assert "89 pictures predicted, 5 part files" in done.out
    return out


def test_the_rows_are_what_predict_prints(promptmix: Promptmix, trained: Path, many: Path, whole: Path) -> None:
    printed = promptmix("predict", trained, many, "--json", "--quiet", "--no-cache")
    lines = [json.loads(line) for line in printed.out.splitlines()]
    rows = all_rows(whole)
    assert [row["path"] for row in rows] == [line["path"].encode("utf-8", "backslashreplace").decode() for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert row["class"] == line["class"]
        assert row["probability"] == pytest.approx(line["probability"], abs=1e-5)
        assert row["top_classes"] == [one["class"] for one in line["top"]]
        assert row["top_probabilities"] == pytest.approx([one["probability"] for one in line["top"]], abs=1e-5)
        assert row["experts"] == [one["template"] for one in line["experts"]]
        assert row["expert_weights"] == pytest.approx([one["weight"] for one in line["experts"]], abs=1e-5)
        assert row["margin"] == pytest.approx(row["top_probabilities"][0] - row["top_probabilities"][1])
    assert [len(rows_of(path)) for path in sorted(whole.glob("part-*"))] == [20, 20, 19, 20, 10]


def test_bad_pictures_are_listed_beside_their_part(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "said"
    done = promptmix("predict", trained, many, "--out", out, "--rows-per-file", "20", "--json")
    assert done.code == 0
    assert done.err == f"promptmix: 2 of 91 pictures could not be read; {out}/bad-*.jsonl says which, and why\n"
    said = json.loads(done.out)
    assert {name: said[name] for name in ("parts", "predicted", "bad", "predicted_now")} == {
        "parts": 5,
        "predicted": 89,
        "bad": 2,
        "predicted_now": 89,
    }
    assert {name: json.loads((out / "summary.json").read_text())[name] for name in said if name != "out"} == {
        name: said[name] for name in said if name != "out"
    }
    bad = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(out.glob("bad-*"))}
    assert {name: [Path(row["path"]).name for row in rows] for name, rows in bad.items()} == {
        "bad-00002.jsonl": ["040.png"],
        "bad-00004.jsonl": ["zz.png"],
    }
    assert "is not a picture that can be read" in bad["bad-00002.jsonl"][0]["reason"]


def test_csv_and_parquet_say_the_same(promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path) -> None:
    promptmix("predict", trained, many, "--out", tmp_path / "csv", "--rows-per-file", "20", "--format", "csv", "-q").works()
    for path in sorted(whole.glob("part-*")):
        with (tmp_path / "csv" / f"{path.stem}.csv").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        rows = rows_of(path)
        assert len(rows) == len(table)
        for row, cells in zip(rows, table, strict=True):
            assert [cells["path"], cells["class"]] == [row["path"], row["class"]]
            assert [float(cells["probability"]), float(cells["margin"])] == [row["probability"], row["margin"]]
            for what, number, names, numbers in (
                ("class", "probability", row["top_classes"], row["top_probabilities"]),
                ("expert", "weight", row["experts"], row["expert_weights"]),
            ):
                there = [place for place in range(1, 9) if cells.get(f"{what}_{place}")]
                assert [cells[f"{what}_{place}"] for place in there] == names
                assert [float(cells[f"{number}_{place}"]) for place in there] == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source(promptmix: Promptmix, photos: Path, trained: Path, tmp_path: Path, kind: str) -> None:
    source = made(kind, photos, tmp_path)
    out = tmp_path / "said"
    promptmix("predict", trained, source, "--out", out, "--rows-per-file", "10").works()
    printed = promptmix("predict", trained, source, "--json")
    wanted = [(line["path"], line["class"]) for line in map(json.loads, printed.out.splitlines())]
    assert [(row["path"], row["class"]) for row in all_rows(out)] == wanted
    assert len(wanted) == 24
    again = promptmix("predict", trained, source, "--out", out, "--rows-per-file", "10", "--json")
    assert json.loads(again.out)["predicted_now"] == 0


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_job_that_was_killed_goes_on_to_the_same_bytes(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, file_format: str
) -> None:
    cut = tmp_path / "cut"
    arguments = ["predict", str(trained), str(many), "--rows-per-file", "10", "--format", file_format, "-q", "--out"]
    process = Command(tmp_path / "output", *arguments, cut)
    deadline = time.monotonic() + 60
    while len(list(cut.glob("part-*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(60)
    assert process.returncode == -signal.SIGKILL
    finished = files_of(cut)
    assert len([name for name in finished if name.startswith("part-")]) < 10
    assert not (cut / "summary.json").exists()
    (cut / f".part-00009.{file_format}.abc.tmp").write_bytes(b"begun")  # as a writer that was killed leaves it
    promptmix(*arguments, cut).works()
    promptmix(*arguments, tmp_path / "whole").works()
    assert files_of(cut) == files_of(tmp_path / "whole")
    assert len(files_of(cut)) == 12
    assert {name: files_of(cut)[name] for name in finished} == finished
    assert not list(cut.glob(".*"))


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_block_is_in_one_shard(count: int, number: int) -> None:
    assert [Shard(index=index, count=count).has(number) for index in range(1, count + 1)].count(True) == 1


def test_shards_together_are_the_whole(promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path) -> None:
    counts = []
    for index in (3, 1, 2):
        done = promptmix(
            "predict", trained, many, "--out", tmp_path / "all", "--rows-per-file", "20", "--shard", f"{index}/3", "--json", "-q"
        )
        done.works()
        counts.append(json.loads(done.out)["predicted"])
        assert (tmp_path / "all" / f"summary-{index}-of-3.json").is_file()
    assert counts == [19, 40, 30]
    assert files_of(tmp_path / "all") == files_of(whole)
    # A machine that has nothing to do is no failure.
    nothing = promptmix("predict", trained, many, "--out", tmp_path / "few", "--shard", "2/2", "--json")
    nothing.works()
    assert json.loads(nothing.out)["predicted"] == 0


def test_a_shard_does_not_throw_away_the_others(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    arguments = ("predict", trained, many / "anchor", "--out", tmp_path / "said", "--rows-per-file", "10", "--shard")
    promptmix(*arguments, "1/2").works()
    before = files_of(tmp_path / "said")
    done = promptmix(*arguments, "2/2", "--overwrite")
    assert done.code == 2
    assert "the other shards" in " ".join(done.err.split())
    assert files_of(tmp_path / "said") == before


def test_a_summary_is_there_only_where_all_is_done(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, source = tmp_path / "said", Path(shutil.copytree(many / "anchor", tmp_path / "in"))
    arguments = ("predict", trained, source, "--out", out, "--rows-per-file", "10")

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    promptmix(*arguments, "--shard", "1/2").works()
    for shard, name in (([], "summary.json"), (["--shard", "2/2"], "summary-2-of-2.json")):
        promptmix(*arguments, *shard).works()
        assert (out / name).is_file()
        (out / "part-00001.parquet").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(bulk, "predict_block", stopped)
            promptmix(*arguments, *shard).fails(130, "interrupted")
        assert [path.name for path in out.glob("summary*")] == ["summary-1-of-2.json"]
    promptmix(*arguments).works()
    (source / "new.png").write_bytes(b"")
    (source / "001.png").unlink()
    promptmix(*arguments).fails(4, "is of other pictures than the sources list")
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_shards_that_are_none(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, shard: str) -> None:
    done = promptmix("predict", trained, many, "--out", tmp_path / "said", "--shard", shard)
    assert done.code == 2
    assert "write i/n, such as 1/4" in " ".join(done.err.split())
    assert not (tmp_path / "said").exists()


def test_the_cache_changes_nothing(
    promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTMIX_CACHE", str(tmp_path / "cache"))
    promptmix("predict", trained, many, "--out", tmp_path / "a", "--rows-per-file", "20", "-q").works()
    assert not (tmp_path / "cache").exists()
    for name in ("b", "c"):
        promptmix("predict", trained, many, "--out", tmp_path / name, "--rows-per-file", "20", "--cache", "-q").works()
        assert files_of(tmp_path / name) == files_of(whole)
    assert (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--top", "2"], "with --top 5, not 2"),
        (["--rows-per-file", "10"], "with --rows-per-file 20, not 10"),
        (["--format", "csv"], "with --format parquet, not csv"),
        (["--precision", "bf16"], "with --precision auto, not bf16"),
    ],
)
def test_another_job_is_refused(
    promptmix: Promptmix, trained: Path, many: Path, whole: Path, changed: list[str], words: str
) -> None:
    before = files_of(whole)
    options = changed if "--rows-per-file" in changed else ["--rows-per-file", "20", *changed]
    promptmix("predict", trained, many, "--out", whole, *options).fails(3, "another job", words, "--overwrite")
    assert files_of(whole) == before


def test_another_model_or_source_is_refused(promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path) -> None:
    model = shutil.copytree(trained, tmp_path / "model")
    options = ("--out", whole, "--rows-per-file", "20")
    promptmix("predict", trained, many / "cat", *options).fails(3, "another job", "with SOURCE", "--overwrite")
    promptmix("classes", "remove", model, "cat")
    promptmix("predict", model, many, "--out", tmp_path / "x", "--rows-per-file", "20", "-q").works()
    done = promptmix("predict", model, many, *options)
    done.fails(3, "of another model")


def test_sources_that_have_changed_are_noticed(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    source, out = Path(shutil.copytree(many, tmp_path / "many")), tmp_path / "said"
    arguments = ("predict", trained, source, "--out", out, "--rows-per-file", "20", "-q")
    promptmix(*arguments).works()
    (out / "part-00004.parquet").unlink()
    (source / "cat" / "new.png").write_bytes((source / "cat" / "030.png").read_bytes())
    promptmix(*arguments).fails(4, "is of other pictures than the sources list", "--overwrite")
    (source / "cat" / "new.png").unlink()
    promptmix(*arguments).works()
    (source / "cat" / "new.png").write_bytes((source / "cat" / "030.png").read_bytes())
    promptmix(*arguments, "--overwrite").works()
    assert len(all_rows(out)) == 90

    table = tmp_path / "list.csv"
    table.write_text("path\n" + "".join(f"many/cat/{number:03}.png\n" for number in range(30, 40)))
    promptmix("predict", trained, table, "--out", tmp_path / "of-table").works()
    table.write_text("path\n" + "".join(f"many/cat/{number:03}.png\n" for number in range(31, 41)))
    os.utime(table, ns=(1, 1))
    promptmix("predict", trained, table, "--out", tmp_path / "of-table").fails(3, "of the same sources, which have changed since")


def test_where_none_can_be_read_it_is_an_error_and_they_are_tried_again(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(b"no picture")
    arguments = ("predict", trained, source, "--out", tmp_path / "said", "--rows-per-file", "2")
    promptmix(*arguments).fails(4, "none of the 3 pictures can be read; the first: ", "0.png")
    promptmix(*arguments).fails(4, "none of the 3 pictures can be read; the first: ", "0.png")
    shutil.copy(many / "cat" / "030.png", source / "2.png")
    done = promptmix(*arguments)
    assert done.code == 0
    assert "2 of 3 pictures could not be read" in done.err
    shutil.copy(many / "cat" / "030.png", source / "0.png")
    done = promptmix(*arguments)
    assert done.code == 0
    assert "1 of 3 pictures could not be read" in done.err
    assert len((tmp_path / "said" / "bad-00000.jsonl").read_text().splitlines()) == 1
    shutil.rmtree(source)
    source.mkdir()
    promptmix("predict", trained, source, "--out", tmp_path / "none").fails(4, "no picture matches")
    promptmix("predict", trained, tmp_path / "gone", "--out", tmp_path / "none").fails(
        4, "there is no picture, folder or pattern"
    )
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_told_of_where_a_block_is_tried_again(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "in" / "0.png"
    picture.parent.mkdir()
    picture.write_bytes(b"no picture")
    arguments = ("predict", trained, picture.parent, "--out", tmp_path / "said", "--format", "csv")
    promptmix(*arguments).fails(4, "none of the 1 pictures can be read")
    shutil.copy(many / "cat" / "030.png", picture)
    with monkeypatch.context() as patch:
        patch.setattr(bulk_parts, "written", _no_room)
        promptmix(*arguments).fails(4, "no disk space left to write")
    done = promptmix(*arguments, "--json", "-q")
    done.works()
    assert json.loads(done.out)["predicted_now"] == 1


def _no_room(picture: object) -> str:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_of_a_person_is_overwritten(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "said"
    out.mkdir()
    (out / "part-00000.parquet").write_bytes(b"mine")
    for option in ([], ["--overwrite"]):
        promptmix("predict", trained, many, "--out", out, *option).fails(4, "no bulk prediction's", "choose another folder")
    assert (out / "part-00000.parquet").read_bytes() == b"mine"
    (tmp_path / "file").touch()
    promptmix("predict", trained, many, "--out", tmp_path / "file").fails(4, "is a file")
    (out / "job.json").write_text('{"format": "promptmix-bulk-prediction-9"}')
    promptmix("predict", trained, many, "--out", out).fails(5, "damaged or of another version", "--overwrite")


def test_a_part_that_is_damaged_is_told_of(promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "said"))
    arguments = ("predict", trained, many, "--out", out, "--rows-per-file", "20", "-q")
    (out / "part-00001.parquet").write_bytes((out / "part-00001.parquet").read_bytes()[:-20])
    promptmix(*arguments).fails(4, "part-00001.parquet is damaged", "remove it")
    (out / "part-00001.parquet").unlink()
    (out / "bad-00002.jsonl").write_text("{")
    promptmix(*arguments).fails(4, "bad-00002.jsonl is damaged", "remove it")
    (out / "bad-00002.jsonl").unlink()
    (out / "part-00002.parquet").unlink()
    promptmix(*arguments).works()
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_full_disk_is_one_line_and_leaves_no_half_part(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    written, out = bulk_parts.written, tmp_path / "said"

    def full(picture: object) -> str:
        if str(picture).endswith("045.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(picture)

    arguments = ("predict", trained, many, "--out", out, "--rows-per-file", "20", "--format", file_format)
    with monkeypatch.context() as patch:
        patch.setattr(bulk_parts, "written", full)
        promptmix(*arguments).fails(4, f"no disk space left to write {out}/part-00002.{file_format}", "free some")
    assert sorted(path.name for path in out.iterdir()) == ["job.json", f"part-00000.{file_format}", f"part-00001.{file_format}"]
    promptmix(*arguments, "-q").works()


def test_stopped_by_ctrl_c(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, predict = list[int](), bulk.predict_block

    def stop_at_the_third(predictor: Any, job: Any, out: Path, block: Any, **others: Any) -> Any:
        begun.append(block.number)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return predict(predictor, job, out, block, **others)

    arguments = ("predict", trained, many, "--out", tmp_path / "said", "--rows-per-file", "20")
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict_block", stop_at_the_third)
        promptmix(*arguments).fails(130, "interrupted", str(tmp_path / "said"), "the same command goes on")
    done = promptmix(*arguments, "--json", "-q")
    done.works()
    assert (json.loads(done.out)["predicted"], json.loads(done.out)["predicted_now"]) == (89, 49)


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_the_same_command_twice_at_once(
    promptmix: Promptmix,
    trained: Path,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_format: str,
) -> None:
    """One of them begins a block; before it is done the other does all there is."""
    out, write_bad = tmp_path / "said", bulk_parts.write_bad
    arguments = ("predict", trained, many, "--rows-per-file", "20", "--format", file_format, "-q", "--out")
    promptmix(*arguments, tmp_path / "once").works()

    def let_the_other_go_first(path: Path, bad: Any) -> None:
        monkeypatch.setattr(bulk, "write_bad", write_bad)
        promptmix(*arguments, out).works()
        write_bad(path, bad)

    monkeypatch.setattr(bulk, "write_bad", let_the_other_go_first)
    promptmix(*arguments, out).works()
    assert files_of(out) == files_of(tmp_path / "once")
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("shard", ["1/1", "1/2"])
def test_a_source_with_fewer_pictures_than_before_is_noticed(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, shard: str
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(many / "skull", pictures)
    (pictures / "zz.png").unlink()
    arguments = ("predict", trained, pictures, "--out", tmp_path / "said", "--rows-per-file", "10", "-q")
    promptmix(*arguments).works()
    for path in sorted(pictures.iterdir())[10:]:
        path.unlink()
    promptmix(*arguments, "--shard", shard).fails(4, "part-00001.parquet", "no longer list")
    assert not (tmp_path / "said" / "summary.json").exists()


def test_any_number_of_rows_a_file_may_be_asked_for(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    promptmix("predict", trained, many / "anchor", "--out", tmp_path / "said", "--rows-per-file", str(10**20)).works()
    assert len(all_rows(tmp_path / "said")) == 30


def test_more_classes_than_there_are_may_be_asked_for(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    for file_format in ("parquet", "csv"):
        promptmix(
            "predict", trained, many / "anchor", "--out", tmp_path / file_format, "--top", "1000000000", "--format", file_format
        ).works()
    assert all(len(row["top_classes"]) == 3 for row in all_rows(tmp_path / "parquet"))
    assert "class_3," in (tmp_path / "csv" / "part-00000.csv").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("method", ["zero-shot", "cocoop"])
def test_other_methods(promptmix: Promptmix, photos: Path, many: Path, tmp_path: Path, method: str) -> None:
    model = tmp_path / "run"
    promptmix("train", photos, "--out", model, "--method", method, "--shots", "1", "--epochs", "1").works()
    promptmix("predict", model, many / "anchor", "--out", tmp_path / "said", "--top", "1").works()
    rows = all_rows(tmp_path / "said")
    assert list(rows[0]) == ["path", "class", "probability", "margin", "top_classes", "top_probabilities"]
    assert [row["top_classes"] for row in rows] == [[row["class"]] for row in rows]


def test_row_groups_are_small_where_rows_are_long(
    promptmix: Promptmix, trained: Path, many: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(bulk_parts, "_MOST_CELLS", 100)
    promptmix("predict", trained, many, "--out", tmp_path / "said", "--rows-per-file", "20", "-q").works()
    assert parquet.ParquetFile(tmp_path / "said" / "part-00000.parquet").num_row_groups == 3
    assert all_rows(tmp_path / "said") == all_rows(whole)


def test_a_missing_package_is_one_line(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    promptmix("predict", trained, many, "--out", tmp_path / "ray", "--engine", "ray").fails(3, "pip install 'promptmix[ray]'")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    promptmix("predict", trained, many, "--out", tmp_path / "said").fails(3, 'pip install "promptmix[data]"', "--format csv")
    promptmix("predict", trained, many, "--out", tmp_path / "csv", "--format", "csv", "-q").works()


def test_options_that_do_not_go_together(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    for option in (["--format", "csv"], ["--shard", "1/2"], ["--engine", "ray"], ["--rows-per-file", "5"], ["--overwrite"]):
        done = promptmix("predict", trained, many, *option)
        assert done.code == 2
        assert "--out" in done.err
    out = ("predict", trained, many, "--out", tmp_path / "said")
    assert promptmix(*out, "--csv").code == 2
    assert promptmix(*out, "--ray-address", "1.2.3.4:5").code == 2
    promptmix(*out, "--format", "cvs").fails(3, "unknown format 'cvs'; did you mean 'csv'?")
    promptmix(*out, "--engine", "rai").fails(3, "unknown engine 'rai'; did you mean 'ray'?")
    assert not (tmp_path / "said").exists()
