"""What protocols learn from and measure on: shots that are nested, pictures held out anew for each seed, nothing opened to list them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from promptmix.data import benchmarks
from promptmix.data.drawn_task import block_of_classes, draw_shots
from promptmix.data.images import content_key
from promptmix.data.pictograms import PRETRAINING_STYLES, UNSEEN_STYLES
from promptmix.data.records import LabelledPictures, PictureSet, Record
from promptmix.data.sampling import sample_shots_as_published
from promptmix.errors import ConfigError, DataError
from promptmix.protocols import datasets
from promptmix.protocols.datasets import DataSpec, classes_of, only_classes, open_data, spec_of


def contents(pictures: LabelledPictures) -> set[str]:
    return {content_key(picture) for picture in pictures.pictures}


@pytest.mark.parametrize("shots", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("styles", [UNSEEN_STYLES, PRETRAINING_STYLES, UNSEEN_STYLES[:1]])
def test_drawn_shots_are_as_many_as_asked_for_and_nested(shots: int, styles: tuple[str, ...]) -> None:
    classes = block_of_classes(2)[0][:3]
    drawn = draw_shots(classes, styles, shots, 4)
    assert [one.class_name for one in drawn] == [name for name in classes for _ in range(shots)]
    more = {one.image.tobytes() for one in draw_shots(classes, styles, shots + 3, 4)}
    assert {one.image.tobytes() for one in drawn} < more
    counts = [sum(one.style == style for one in drawn) for style in styles]
    assert max(counts) - min(counts) <= len(classes)


def test_the_blocks_of_classes_share_none() -> None:
    blocks = [name for block in range(3) for half in block_of_classes(block) for name in half]
    assert len(blocks) == len(set(blocks)) == 120


def test_the_bundled_world_has_variants() -> None:
    usual, others = (open_data(DataSpec(source=name)) for name in ("pictograms", "pictograms:others"))
    assert len(usual.class_names) == len(others.class_names) == 40
    assert not set(usual.class_names) & set(others.class_names)
    neon = open_data(DataSpec(source="pictograms:neon"))
    assert neon.class_names == usual.class_names
    assert contents(neon.test(1)) < contents(usual.test(1)) == contents(usual.test(2))
    assert len(usual.test(1).pictures) == usual.num_test
    assert not contents(usual.training(16, 1)) & contents(usual.test(1))
    assert "in the styles neon, cross-stitch" in usual.training(2, 1).description
    with pytest.raises(ConfigError, match="no variant 'nein'; did you mean 'neon'"):
        open_data(DataSpec(source="pictograms:nein"))
    with pytest.raises(ConfigError, match="--shots"):
        usual.training(None, 1)


def test_pictures_with_a_test_part_are_measured_on_that(split_photos: Path) -> None:
    source = open_data(DataSpec(source=str(split_photos)))
    assert source.name == "split"
    assert not source.tests_vary
    test = source.test(3)
    assert source.num_test == len(test.pictures) == 20
    assert all("test" in Path(str(picture)).parts for picture in test.pictures)
    training = source.training(2, 1)
    assert sorted(training.labels) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert set(training.pictures) < set(source.training(4, 1).pictures) < set(source.training(None, 1).pictures)
    assert source.known_as(training.pictures[0]).startswith("train/")
    assert source.num_training == len(source.training(None, 1).pictures) == 30


def test_pictures_without_one_are_held_out_anew_for_each_seed(plain_photos: Path) -> None:
    source = open_data(DataSpec(source=str(plain_photos), hold_out=0.35))
    assert source.tests_vary
    tests = {seed: source.test(seed) for seed in (1, 2)}
    assert set(tests[1].pictures) != set(tests[2].pictures)
    for seed, test in tests.items():
        assert sorted(test.labels) == [label for label in range(4) for _ in range(3)]
        learnt = source.training(None, seed)
        assert not set(learnt.pictures) & set(test.pictures)
        assert len(learnt.pictures) + len(test.pictures) == 40
        assert set(source.training(2, seed).pictures) < set(learnt.pictures)
        assert f"held out by seed {seed}" in test.description
    assert source.test(1) == tests[1]
    assert (source.num_training, source.num_test) == (28, 12)


def test_how_much_is_held_out_must_be_said(plain_photos: Path) -> None:
    with pytest.raises(ConfigError, match="no test part; say with --hold-out"):
        open_data(DataSpec(source=str(plain_photos)))


@pytest.mark.parametrize(("count", "share", "held_out"), [(1, 0.5, 0), (2, 0.1, 1), (2, 0.9, 1), (10, 0.3, 3), (3, 0.99, 2)])
def test_some_and_never_all_of_a_class_are_held_out(count: int, share: float, held_out: int) -> None:
    assert datasets._num_held_out(count, share) == held_out


def test_what_is_only_measured_needs_no_parts(plain_photos: Path, split_photos: Path) -> None:
    plain = open_data(DataSpec(source=str(plain_photos), only_measured=True))
    assert len(plain.test(1).pictures) == plain.num_test == 40
    split = open_data(DataSpec(source=str(split_photos), only_measured=True))
    assert len(split.test(1).pictures) == 20
    with pytest.raises(DataError, match="only measured on"):
        plain.training(1, 1)


def test_the_listing_knows_names_labels_and_classes(plain_photos: Path, tmp_path: Path) -> None:
    import shutil

    def listing() -> str:
        open_data.cache_clear()
        return open_data(DataSpec(source=str(tmp_path / "mine"), hold_out=0.3)).listing

    shutil.copytree(plain_photos, tmp_path / "mine")
    before = listing()
    open_data.cache_clear()
    assert open_data(DataSpec(source=str(plain_photos), hold_out=0.3)).listing == before
    picture = next((tmp_path / "mine").rglob("*.png"))
    picture.rename(picture.with_name("other.png"))
    assert listing() != before


def test_base_classes_are_the_first_half(split_photos: Path) -> None:
    source = open_data(DataSpec(source=str(split_photos)))
    assert classes_of(source, "base") == (0, 1, 2)
    assert classes_of(source, "new") == (3, 4)
    assert classes_of(source, "all") == (0, 1, 2, 3, 4)
    new = only_classes(source.test(1), (3, 4), "new")
    assert new.class_names == source.class_names[3:]
    assert [new.class_names[label] for label in new.labels] == [Path(str(picture)).parent.name for picture in new.pictures]
    assert new.description.startswith("the new classes of the test part of ")
    assert len(new.pictures) == 8


def fake_benchmark(folder: Path) -> benchmarks.BenchmarkParts:
    names = ("a", "b", "c")
    parts = {
        part: PictureSet(
            root=folder,
            class_names=names,
            records=tuple(Record(picture=folder / part / f"{n}.jpg", label=n % 3) for n in range(12)),
        )
        for part in ("train", "val", "test")
    }
    return benchmarks.BenchmarkParts(
        benchmark=benchmarks.BENCHMARKS["dtd"], parts=parts, is_official=False, notes=("other split",)
    )


def test_a_benchmark_has_its_template_and_the_published_shots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "read_benchmark", lambda name, root: fake_benchmark(tmp_path))
    open_data.cache_clear()
    source = open_data(spec_of("DTD", str(tmp_path), None, False))
    assert source.name == "dtd"
    assert source.template == "{} texture."
    assert source.notes == ("other split",)
    drawn = source.training(2, 7)
    assert list(drawn.pictures) == list(
        sample_shots_as_published(fake_benchmark(tmp_path).parts["train"], 2, 7).pictures.pictures
    )
    assert source.known_as(drawn.pictures[0]).startswith("train/")
    without = dataclasses.replace(fake_benchmark(tmp_path), parts={"test": fake_benchmark(tmp_path).parts["test"]})
    monkeypatch.setattr(datasets, "read_benchmark", lambda name, root: without)
    open_data.cache_clear()
    with pytest.raises(DataError, match="learn from another"):
        open_data(spec_of("dtd", str(tmp_path), None, False)).training(1, 1)
    open_data.cache_clear()


def test_what_a_name_means(plain_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spec_of("pets", "benchmarks", None, True) == DataSpec(source="oxford-pets", root="benchmarks", only_measured=True)
    assert spec_of(str(plain_photos), "benchmarks", 0.2, False) == DataSpec(source=str(plain_photos), hold_out=0.2)
    assert spec_of(str(plain_photos), None, 0.2, True).hold_out is None
    assert spec_of("pictograms:neon", None, 0.2, False) == DataSpec(source="pictograms:neon")
    with pytest.raises(ConfigError, match="--root"):
        spec_of("eurosat", None, None, False)
    with pytest.raises(ConfigError, match="did you mean 'eurosat'"):
        spec_of("eurosad", "benchmarks", None, False)
    # A folder that a person has counts more than a name of the field, unless the benchmarks' folder was named.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dtd").mkdir()
    assert spec_of("dtd", None, None, False).root is None
    assert spec_of("dtd", ".", None, False).root == "."
