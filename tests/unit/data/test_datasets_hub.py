"""Data sets of Hugging Face: saved ones are read where they lie; the hub is asked only by name, and never in tests."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from promptmix.data import datasets_hub
from promptmix.data.images import content_key, open_picture
from promptmix.data.listing import Columns
from promptmix.data.read import list_any_pictures, read_parts, read_pictures
from promptmix.errors import ConfigError, DataError, PromptMixError


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def datasets() -> Any:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    datasets.disable_progress_bars()
    return datasets


def data_set(datasets: Any, labels: list[int], names: tuple[str, ...] = ("dog", "cat"), first: int = 0) -> Any:
    cells = [{"bytes": png(first + number), "path": None} for number in range(len(labels))]
    features = datasets.Features({"label": datasets.ClassLabel(names=list(names)), "photo": datasets.Image()})
    return datasets.Dataset.from_dict({"photo": cells, "label": labels}, features=features)


def refused(source: Path | str, kind: type[PromptMixError] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_parts(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_data_set(datasets: Any, tmp_path: Path) -> None:
    data_set(datasets, [0, 1, 0, 1, 1]).save_to_disk(tmp_path / "pets", num_shards=2)
    pictures = read_pictures(tmp_path / "pets")
    assert pictures.class_names == ("dog", "cat")
    assert pictures.labels == (0, 1, 0, 1, 1)
    assert [str(picture) for picture in pictures.pictures] == [f"pets/{number}" for number in range(5)]
    for shade, picture in enumerate(pictures.pictures):
        again = pickle.loads(pickle.dumps(picture))  # noqa: S301  # as it goes to a worker process
        assert (again, hash(again)) == (picture, hash(picture))
        assert content_key(again) == content_key(png(shade))
        assert open_picture(again).size == (4, 4)
    assert len({picture.file for picture in pictures.pictures if isinstance(picture, datasets_hub.ArrowPicture)}) == 2


def test_splits_are_parts(datasets: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = {"train": [0, 1], "validation": [1], "test": [1, 0, 0], "extra": [0]}
    built = {name: data_set(datasets, labels, first=10 * place) for place, (name, labels) in enumerate(splits.items())}
    datasets.DatasetDict(built).save_to_disk(tmp_path / "pets")
    with caplog.at_level(logging.WARNING):
        parts = read_parts(tmp_path / "pets")
    assert "not train, val or test: extra; left out" in caplog.text
    assert {name: part.labels for name, part in parts.items()} == {"train": (0, 1), "val": (1,), "test": (1, 0, 0)}
    assert [str(picture) for picture in parts["test"].pictures] == ["pets/test/0", "pets/test/1", "pets/test/2"]
    assert len(list_any_pictures(tmp_path / "pets")) == 7
    assert "label 'cat' is not a known class" in refused(tmp_path / "pets", class_names=["dog", "bird"])


def test_classes_without_pictures_to_learn_from_are_left_out(
    datasets: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_set(datasets, [2, 0, 2], ("zebra", "ape", "dog")).save_to_disk(tmp_path / "pets")
    with caplog.at_level(logging.WARNING):
        pictures = read_pictures(tmp_path / "pets")
    assert "1 classes have no picture to learn from; left out" in caplog.text
    assert (pictures.class_names, pictures.labels) == (("zebra", "dog"), (1, 0, 1))
    assert read_pictures(tmp_path / "pets", class_names=["dog", "ape", "zebra"]).labels == (0, 2, 0)


def test_columns_and_what_has_none(datasets: Any, tmp_path: Path) -> None:
    data_set(datasets, [0, 1]).add_column("kind", ["a", "b"]).save_to_disk(tmp_path / "pets")
    assert read_pictures(tmp_path / "pets", columns=Columns(label="kind")).class_names == ("a", "b")
    assert "no pictures in kind" in refused(tmp_path / "pets", columns=Columns(image="kind"))
    assert "did you mean 'photo'?" in refused(tmp_path / "pets", ConfigError, columns=Columns(image="foto"))
    datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]}).save_to_disk(tmp_path / "texts")
    assert "has no pictures in its columns (they are text, label)" in refused(tmp_path / "texts")


def test_labels_outside_the_names_and_rows_that_were_chosen(datasets: Any, tmp_path: Path) -> None:
    data_set(datasets, [0, -1]).save_to_disk(tmp_path / "gaps")
    assert "gaps/1: label -1 is no number of a class" in refused(tmp_path / "gaps")
    data_set(datasets, [0, 1, 0, 1]).select([3, 0]).save_to_disk(tmp_path / "chosen")
    chosen = read_pictures(tmp_path / "chosen")
    assert chosen.labels == (1, 0)
    assert [content_key(picture) for picture in chosen.pictures] == [content_key(png(3)), content_key(png(0))]


def test_damaged_folders_are_one_line(datasets: Any, tmp_path: Path) -> None:
    data_set(datasets, [0, 1]).save_to_disk(tmp_path / "pets")
    picture = read_pictures(tmp_path / "pets").pictures[0]
    (tmp_path / "pets" / "state.json").write_text("{")
    assert "is no data set that can be read" in refused(tmp_path / "pets")
    assert isinstance(picture, datasets_hub.ArrowPicture)
    picture.file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        picture.read()


def test_a_saved_data_set_that_changes(datasets: Any, tmp_path: Path) -> None:
    data_set(datasets, [0, 1]).save_to_disk(tmp_path / "pets")
    listed = read_pictures(tmp_path / "pets").pictures
    assert content_key(listed[0]) == content_key(png(0))
    # Another file of the same size in its place: it was mapped, so it must not be written over.
    data_set(datasets, [1, 0], first=1).save_to_disk(tmp_path / "new")
    (file,), (new,) = ([*(tmp_path / name).glob("*.arrow")] for name in ("pets", "new"))
    os.utime(new, ns=(0, 0))
    new.replace(file)
    for picture in listed:
        with pytest.raises(DataError, match="has changed since it was listed; start again"):
            content_key(picture)
    again = read_pictures(tmp_path / "pets")
    assert [(content_key(record.picture), record.label) for record in again.records] == [
        (content_key(png(1)), 1),
        (content_key(png(2)), 0),
    ]


def test_a_usual_name_counts_for_more_than_a_kind(datasets: Any, tmp_path: Path) -> None:
    cells = [{"bytes": png(number), "path": None} for number in range(2)]
    quality = datasets.ClassLabel(names=["good", "bad"])
    texts = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string"), "quality": quality})
    built = datasets.Dataset.from_dict({"image": cells, "label": ["cat", "dog"], "quality": [1, 0]}, features=texts)
    built.save_to_disk(tmp_path / "pets")
    assert read_pictures(tmp_path / "pets").class_names == ("cat", "dog")
    # What has a usual name but can hold no label, such as boxes, is passed over.
    built.remove_columns("label").add_column("target", [[1, 2], [3, 4]]).save_to_disk(tmp_path / "boxes")
    assert read_pictures(tmp_path / "boxes").class_names == ("good", "bad")


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:a b", "hf:owner/name@", "hf:../up/down", "hf://datasets/a/b"])
def test_names_that_are_none(source: str) -> None:
    assert "write hf:owner/name" in refused(source)


def test_without_the_network_it_is_one_line(datasets: Any) -> None:
    message = refused("hf:owner/there-is-no-such")
    assert message.startswith("hf:owner/there-is-no-such cannot be had (HF_HUB_OFFLINE is set): ")
    assert message.endswith("check name and network, or download it and give its folder")


def test_the_hub_is_asked_for_what_was_named(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    data_set(datasets, [0, 1]).save_to_disk(tmp_path / "saved")
    asked: list[object] = []

    def loaded(*arguments: object, **options: object) -> Any:
        asked.append((arguments, options))
        return datasets.DatasetDict({"train": datasets.load_from_disk(str(tmp_path / "saved"))})

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    assert str(read_pictures("hf:owner/pets").pictures[1]) == "owner/pets/train/1"
    read_pictures("hf:pets:small@refs/convert/parquet")
    assert asked == [(("owner/pets", None), {"revision": None}), (("pets", "small"), {"revision": "refs/convert/parquet"})]

    class Hub:
        def dataset_info(self, name: str, **options: object) -> None:
            asked.append((name, options))
            raise OSError("no\nroute")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("not cached")))
    assert refused("hf:owner/pets@v1").startswith("hf:owner/pets@v1 cannot be had: no route; check name")
    assert asked[2:] == [("owner/pets", {"revision": "v1", "timeout": 10.0})]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloaded(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set as it lies in the cache of Hugging Face once it was downloaded."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog")):
        (source / "train" / name).mkdir(parents=True)
        (source / "train" / name / "1.png").write_bytes(png(label))
    made = datasets.load_dataset("imagefolder", data_dir=str(source), cache_dir=str(tmp_path / "made"))
    files = Path(made["train"].cache_files[0]["filename"]).parent
    folder = tmp_path / "cache" / "owner___pets" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    for file in files.iterdir():
        to = folder / file.name.replace("imagefolder", "pets")
        to.write_bytes(file.read_bytes())
    notes = json.loads((folder / "dataset_info.json").read_text())
    notes |= {"config_name": "default", "dataset_name": "pets", "builder_name": "cache"}
    (folder / "dataset_info.json").write_text(json.dumps(notes))
    return "hf:owner/pets"


class _Answers:
    """A hub that says nothing, or no."""

    problem: Exception

    def dataset_info(self, name: str, **options: object) -> None:
        raise self.problem


@pytest.mark.parametrize("online", [False, True])
def test_what_was_downloaded_is_used_where_the_hub_does_not_answer(
    downloaded: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, datasets: Any, online: bool
) -> None:
    import huggingface_hub

    if online:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfApi", _Answers)
        monkeypatch.setattr(_Answers, "problem", OSError("no route"), raising=False)
    with caplog.at_level(logging.WARNING, logger="promptmix"):
        pictures = read_pictures(downloaded)
    assert (pictures.class_names, pictures.labels) == (("cat", "dog"), (0, 1))
    assert [content_key(picture) for picture in pictures.pictures] == [content_key(png(0)), content_key(png(1))]
    assert str(pictures.root) == f"hf:owner/pets@{COMMIT}"
    said = f"hf:owner/pets: the hub does not answer; what was downloaded last is used, {COMMIT}"
    assert [one for one in caplog.messages if one.startswith("hf:")] == ([said] if online else [])
    assert datasets.config.HF_HUB_OFFLINE is not online
    assert read_pictures(f"{downloaded}@{COMMIT}").root == pictures.root
    other = COMMIT[::-1]
    assert f"downloaded last is of commit {COMMIT}, and another cannot be had" in refused(f"{downloaded}@{other}")
    caplog.clear()
    read_pictures(f"{downloaded}@v1")
    assert f"is of commit {COMMIT}; whether this is v1 cannot be known without the network" in caplog.text


def test_a_no_of_the_hub_is_a_no(downloaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    problem = OSError("404 no such data set")
    problem.response = SimpleNamespace(status_code=404)  # type: ignore[attr-defined]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", _Answers)
    monkeypatch.setattr(_Answers, "problem", problem, raising=False)
    assert refused(downloaded).startswith("hf:owner/pets cannot be had: 404 no such data set; check name")
    problem.response.status_code = 503  # type: ignore[attr-defined]
    assert len(read_pictures(downloaded)) == 2


def test_a_folder_that_would_be_taken_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "owner/name lies here" in refused("hf:owner/name")


def test_without_the_package_its_install_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (tmp_path, "hf:owner/name"):
        assert 'pip install "promptmix[data]"' in refused(source, ConfigError)
