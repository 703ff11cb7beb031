"""The file that says what a bulk prediction is, where several machines start the same one in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.new_processes import new_processes
from tests.unit.inference.starters import start_in_all

from promptmix.errors import CheckpointError, DataError
from promptmix.inference.bulk_job import BulkJob, model_key, read_job, refuse_changed_model, start_job


@pytest.fixture
def job() -> BulkJob:
    return BulkJob(
        model="0",
        precision="auto",
        sources=("photos",),
        source_state="",
        image_column=None,
        file_format="csv",
        top=5,
        rows_per_file=10,
    )


def test_machines_that_start_at_the_same_moment_do_not_hinder_one_another(job: BulkJob, tmp_path: Path) -> None:
    context, folders = new_processes(), [tmp_path / str(number) for number in range(100)]
    barrier = context.Barrier(2)
    machines = [context.Process(target=start_in_all, args=(folders, job, barrier)) for _ in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(120)
    assert [machine.exitcode for machine in machines] == [0, 0]
    for folder in folders:
        assert read_job(folder) == job
        assert [path.name for path in folder.iterdir()] == ["job.json"]


def test_what_another_machine_is_writing_stays(job: BulkJob, tmp_path: Path) -> None:
    begun = tmp_path / ".job.json.abc.tmp"
    begun.write_text("{")
    start_job(tmp_path, job)
    assert read_job(tmp_path) == job
    parts = [tmp_path / ".part-00000.csv.abc.tmp", tmp_path / "part-00001.csv", tmp_path / "summary-2-of-2.json"]
    for part in parts:
        part.write_text("")
    start_job(tmp_path, job)
    assert all(path.exists() for path in (begun, *parts))
    start_job(tmp_path, job, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_model_that_is_changed_while_a_job_is_under_way_is_noticed(job: BulkJob, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "class_features.safetensors"):
        (tmp_path / name).write_text(name)
    begun = job.model_copy(update={"model": model_key(tmp_path)})
    refuse_changed_model(tmp_path, begun)
    (tmp_path / "class_features.safetensors").write_text("other classes")
    with pytest.raises(CheckpointError, match="was changed while the job was under way"):
        refuse_changed_model(tmp_path, begun)


def test_a_folder_of_something_else_is_refused_beside_a_file_that_is_being_written(job: BulkJob, tmp_path: Path) -> None:
    for name in (".job.json.abc.tmp", "letter.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="no bulk prediction's"):
        start_job(tmp_path, job)
    assert len(list(tmp_path.iterdir())) == 2
