from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptmix.data.benchmark_readers import read_split_file
from promptmix.data.records import PictureSet, Record, clean_class_name
from promptmix.data.sampling import base_new_split, hold_out, hold_out_shots, sample_shots, sample_shots_as_published
from promptmix.errors import ConfigError, DataError


def picture_set(counts: dict[str, int]) -> PictureSet:
    root = Path("photos")
    records = tuple(
        Record(picture=root / name / f"{number}.jpg", label=label)
        for label, (name, count) in enumerate(counts.items())
        for number in range(count)
    )
    return PictureSet(root=root, class_names=tuple(counts), records=records)


COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=5).map(lambda counts: {f"class {i}": n for i, n in enumerate(counts)})


@given(COUNTS, st.integers(1, 10), st.integers(0, 3))
def test_shots_are_nested_and_counted(counts: dict[str, int], shots: int, seed: int) -> None:
    pictures = picture_set(counts)
    fewer, more = (sample_shots(pictures, number, seed) for number in (shots, shots + 1))
    assert set(fewer.pictures.records) <= set(more.pictures.records) <= set(pictures.records)
    assert fewer.pictures.counts() == tuple(min(shots, count) for count in counts.values())
    assert len(set(fewer.pictures.records)) == len(fewer.pictures)
    assert fewer.short_classes == {name: count for name, count in counts.items() if count < shots}
    assert fewer.pictures.class_names == pictures.class_names


def test_seeds_differ_and_zero_is_one_of_them() -> None:
    pictures = picture_set({"cat": 50, "dog": 50})
    drawn = [sample_shots(pictures, 4, seed).pictures.records for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_classes_do_not_draw_alike() -> None:
    sampled = sample_shots(picture_set({"cat": 50, "dog": 50}), 8, 0).pictures
    names = [
        [path.name for path, label in zip(sampled.pictures, sampled.labels, strict=True) if label == which] for which in (0, 1)
    ]
    assert names[0] != names[1]


def test_a_class_draws_the_same_whatever_the_other_classes_and_the_order_of_the_list() -> None:
    alone = sample_shots(picture_set({"dog": 20, "elk": 3}), 5, 7).pictures
    among = sample_shots(picture_set({"cat": 11, "dog": 20, "owl": 2}), 5, 7).pictures
    expected = [path for path in alone.pictures if path.parent.name == "dog"]
    assert [path for path in among.pictures if path.parent.name == "dog"] == expected
    backwards = picture_set({"cat": 11, "dog": 20, "owl": 2})
    assert sample_shots(backwards.subset(range(len(backwards) - 1, -1, -1)), 5, 7).pictures.records == among.records


def test_the_hash_seed_of_the_process_does_not_matter() -> None:
    code = (
        "from pathlib import Path\n"
        "from promptmix.data.records import PictureSet, Record\n"
        "from promptmix.data.sampling import hold_out, sample_shots\n"
        "records = tuple(Record(picture=Path(f'{n}.jpg'), label=n % 3) for n in range(60))\n"
        "pictures = PictureSet(root=Path(), class_names=('a', 'b', 'c'), records=records)\n"
        "print(sample_shots(pictures, 4, 3).pictures.pictures, hold_out(pictures, 2, 3)[1].pictures)\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True, capture_output=True, text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1


def test_less_than_one_shot_is_refused() -> None:
    with pytest.raises(ConfigError, match="shots is 0; it must be at least 1"):
        sample_shots(picture_set({"cat": 2}), 0, 0)


@given(COUNTS, st.integers(0, 10), st.integers(0, 3))
def test_hold_out_parts_the_pictures_and_leaves_one(counts: dict[str, int], per_class: int, seed: int) -> None:
    pictures = picture_set(counts)
    train, validation = hold_out(pictures, per_class, seed)
    assert validation.counts() == tuple(min(per_class, max(0, count - 1)) for count in counts.values())
    assert all(left >= 1 for left, count in zip(train.counts(), counts.values(), strict=True) if count)
    held_out = set(validation.records)
    assert train.records == tuple(record for record in pictures.records if record not in held_out)
    assert validation.records == tuple(record for record in pictures.records if record in held_out)


def test_hold_out_refuses_a_negative_number() -> None:
    with pytest.raises(ConfigError, match="is -1; it must be 0 or more"):
        hold_out(picture_set({"cat": 2}), -1, 0)


def test_base_and_new_classes() -> None:
    assert base_new_split(4) == (range(2), range(2, 4))
    assert base_new_split(5) == (range(3), range(3, 5))
    for number in (0, 1):
        with pytest.raises(DataError, match="at least 2"):
            base_new_split(number)


# The first 12 hex digits of the sha256 of the 16-shot training paths that the published code draws with the seeds 1, 2 and 3.
PUBLISHED = {
    "Caltech101": ("e60a836bd33c", "62be9f804c23", "8c465c68bff4"),
    "DescribableTextures": ("daf3b28e531f", "a34259006a2a", "d4a9dc52a372"),
    "EuroSAT": ("ad260707da91", "212e6c881322", "9dad8ac01841"),
    "OxfordFlowers": ("ea366f552e24", "3966d8c77019", "d027071e2f77"),
    "OxfordPets": ("711e62ca7ba4", "3ecc09fd23ef", "45933e694768"),
    "StanfordCars": ("f7d56096c792", "c8392ec0f0d4", "d5d533f8b5c5"),
    "UCF101": ("b88bd6d2db74", "a510bb0001f0", "6bfebd6fbe08"),
}


@pytest.mark.parametrize(("name", "digests"), PUBLISHED.items())
def test_the_published_samples_are_drawn_file_by_file(shared: Path, name: str, digests: tuple[str, ...]) -> None:
    file = shared / "data" / "coop_splits" / f"split_zhou_{name}.json"
    split = read_split_file(file, file.read_bytes(), Path())
    train = PictureSet(root=Path(), class_names=split.class_names, records=split.parts["train"])
    rows = {path: (label, name) for path, label, name in json.loads(file.read_bytes())["train"]}
    for seed, digest in enumerate(digests, 1):
        drawn = sample_shots_as_published(train, 16, seed).pictures
        paths = [str(record.picture) for record in drawn.records]
        assert hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12] == digest
        for path, label in zip(paths, drawn.labels, strict=True):
            assert (label, clean_class_name(rows[path][1])) == (rows[path][0], drawn.class_names[label])


def drawn_naively(generator: random.Random, labels: list[int], shots: int) -> list[int]:
    drawn = []
    for label in dict.fromkeys(labels):
        places = [place for place, own in enumerate(labels) if own == label]
        drawn += generator.sample(places, shots) if len(places) >= shots else places
    return drawn


LABELS = st.lists(st.integers(0, 3), max_size=40)


@given(LABELS, LABELS, st.integers(1, 8), st.integers(0, 5))
def test_published_samples_are_those_of_a_plain_loop(train: list[int], val: list[int], shots: int, seed: int) -> None:
    names = ("a", "b", "c", "d")
    parts = [
        PictureSet(
            root=Path(),
            class_names=names,
            records=tuple(Record(picture=Path(f"{place}.jpg"), label=label) for place, label in enumerate(labels)),
        )
        for labels in (train, val)
    ]
    sampled = sample_shots_as_published(parts[0], shots, seed, parts[1])
    generator = random.Random(seed)
    assert sampled.pictures == parts[0].subset(drawn_naively(generator, train, shots))
    assert sampled.validation == parts[1].subset(drawn_naively(generator, val, min(shots, 4)))
    assert sampled.short_classes == {name: train.count(label) for label, name in enumerate(names) if train.count(label) < shots}
    alone = sample_shots_as_published(parts[0], shots, seed)
    assert (alone.pictures, alone.validation) == (sampled.pictures, None)


def test_published_samples_refuse_what_would_be_another_sample() -> None:
    with pytest.raises(ConfigError, match="shots is 0"):
        sample_shots_as_published(picture_set({"cat": 2}), 0, 1)
    with pytest.raises(ConfigError, match="seed is -1; published samples have seeds from 0"):
        sample_shots_as_published(picture_set({"cat": 2}), 1, -1)


def test_a_quarter_of_the_shots_of_each_class_is_held_out_whatever_its_number() -> None:
    names = ("cat", "dog", "owl", "elk")
    labels = [0] * 9 + [1] * 2 + [2] + [3] * 4
    learnt_from, held_out = hold_out_shots(labels, names, 1)
    assert sorted(learnt_from + held_out) == list(range(len(labels)))
    assert [sum(labels[place] == label for place in held_out) for label in range(4)] == [2, 1, 0, 1]
    assert (learnt_from, held_out) == hold_out_shots(labels, names, 1) != hold_out_shots(labels, names, 2)
    # The numbers of the classes mean nothing.
    turned = hold_out_shots([3 - label for label in labels], names[::-1], 1)
    assert turned == (learnt_from, held_out)
