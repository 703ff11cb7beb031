from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptmix.data.make_split import Made, make_split
from promptmix.data.read import read_parts
from promptmix.data.records import PictureSet
from promptmix.data.sampling import sample_shots
from promptmix.data.splits import read_split, write_split
from promptmix.errors import ConfigError, DataError

COUNTS = {"cat": 10, "dog": 21, "elk": 4}


def noise(seed: int) -> Image.Image:
    """A picture like no other."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root, seed = tmp_path / "photos", 0
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise(seed).save(root / name / f"{number}.png")
            seed += 1
    return root


def named(pictures: PictureSet, root: Path) -> set[str]:
    return {str(Path(str(picture)).relative_to(root)) for picture in pictures.pictures}


def parts_of(made: Made, root: Path) -> dict[str, set[str]]:
    return {name: named(part, root) for name, part in made.parts.items()}


def test_shares_of_each_class(root: Path) -> None:
    parts = read_parts(root)
    made = make_split(parts, hold_out=0.25, val=0.1, seed=3)
    assert {name: part.counts() for name, part in made.parts.items()} == {
        "train": (7, 14, 3),
        "val": (1, 2, 0),
        "test": (2, 5, 1),
    }
    every = [picture for part in made.parts.values() for picture in part.pictures]
    assert sorted(every) == sorted(parts["train"].pictures)
    assert (made.copies, made.conflicts, made.unreadable, made.kept_together) == ((), (), (), 0)


def test_the_same_seed_the_same_split_and_zero_is_a_seed(root: Path) -> None:
    parts = read_parts(root)
    backwards = {"train": parts["train"].subset(range(len(parts["train"]) - 1, -1, -1))}
    one = make_split(parts, seed=0)
    assert parts_of(make_split(backwards, seed=0), root) == parts_of(one, root)
    assert parts_of(make_split(parts, seed=1), root) != parts_of(one, root)
    # Pictures keep the order of their source, as tables are quick to read in no other.
    order = parts["train"].records.index
    assert all(sorted(part.records, key=order) == list(part.records) for part in one.parts.values())
    assert make_split(parts).parts["test"].counts() == (2, 4, 0)


def test_shots_are_those_that_a_run_would_draw_and_nested(root: Path) -> None:
    parts = read_parts(root)
    made = make_split(parts, shots=5, val=0.1, seed=2)
    assert named(made.parts["train"], root) == named(sample_shots(parts["train"], 5, 2).pictures, root)
    assert made.short_classes == {"elk": 4}
    assert made.parts["val"].counts() == (1, 2, 0)
    assert made.parts["test"].counts() == (4, 14, 0)
    assert named(make_split(parts, shots=2, seed=2).parts["train"], root) <= named(made.parts["train"], root)


def with_copies(root: Path) -> list[tuple[str, str]]:
    pairs = []
    for number in range(0, 10, 2):
        original = root / "dog" / f"{number}.png"
        (root / "dog" / f"same {number}.png").write_bytes(original.read_bytes())
        Image.open(original).resize((96, 96), Image.Resampling.BICUBIC).save(root / "dog" / f"near {number}.png")
        pairs += [(f"dog/{number}.png", f"dog/same {number}.png"), (f"dog/{number}.png", f"dog/near {number}.png")]
    return pairs


@pytest.mark.parametrize("seed", range(6))
def test_copies_stay_on_one_side(root: Path, seed: int) -> None:
    pairs = with_copies(root)
    made = make_split(read_parts(root), hold_out=0.4, val=0.2, seed=seed)
    side = {name: part for part, names in parts_of(made, root).items() for name in names}
    assert len(side) == 35 + 10
    assert all(side[left] == side[right] for left, right in pairs)
    assert made.kept_together == 15
    assert made.parts["test"].counts()[1] <= 0.4 * 31
    assert made.parts["val"].counts()[1] <= 0.2 * 31


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shots", [None, 3])
def test_look_alikes_of_two_classes_stay_on_one_side(root: Path, seed: int, shots: int | None) -> None:
    for number in range(9):
        size = (96, 96) if number % 2 else (80, 80)
        Image.open(root / "dog" / f"{number}.png").resize(size, Image.Resampling.BICUBIC).save(
            root / "cat" / f"near {number}.png"
        )
    parts = read_parts(root)
    made = make_split(parts, shots=shots, hold_out=None if shots else 0.4, val=0.2, seed=seed)
    sides = parts_of(made, root)
    side = {name: part for part, names in sides.items() for name in names}
    left_out = {str(Path(name).relative_to(root)) for name in made.copies}
    assert not left_out & side.keys()
    for number in range(9):
        pair = {f"dog/{number}.png", f"cat/near {number}.png"}
        assert len({side[name] for name in pair - left_out}) <= 1
        assert pair - left_out <= side.keys()
    assert len(side) + len(left_out) == 44
    if shots is None:
        assert (left_out, made.kept_together) == (set(), 18)
        for label, count in enumerate(parts["train"].counts()):
            assert made.parts["test"].counts()[label] <= 0.4 * count
            assert made.parts["val"].counts()[label] <= 0.2 * count
    else:
        assert made.parts["train"].counts() == (3, 3, 3)
        assert named(made.parts["train"], root) == named(sample_shots(parts["train"], 3, seed).pictures, root)


@pytest.mark.parametrize("seed", range(6))
def test_a_shot_is_a_different_picture_and_its_copies_test_nothing(root: Path, seed: int) -> None:
    pairs = with_copies(root)
    made = make_split(read_parts(root), shots=4, seed=seed)
    assert made.parts["train"].counts() == (4, 4, 4)
    sides = parts_of(made, root)
    left_out = {str(Path(name).relative_to(root)) for name in made.copies}
    for left, right in pairs:
        family = {left, right}
        assert len(family & sides["train"]) <= 1
        assert not (family & sides["train"] and family & sides["test"])
        if family & sides["train"]:
            assert family - sides["train"] <= left_out
    assert set().union(*sides.values(), left_out) == {str(path.relative_to(root)) for path in root.rglob("*.png")}


def test_pictures_in_two_classes_are_in_no_part(root: Path) -> None:
    (root / "cat" / "stray.png").write_bytes((root / "dog" / "3.png").read_bytes())
    made = make_split(read_parts(root))
    assert [Path(name).name for name in made.conflicts] == ["stray.png", "3.png"]
    assert not {"cat/stray.png", "dog/3.png"} & set().union(*parts_of(made, root).values())


def test_test_pictures_that_are_there_stay_and_their_copies_are_not_learnt_from(tmp_path: Path, root: Path) -> None:
    (tmp_path / "both").mkdir()
    root.rename(tmp_path / "both" / "train")
    for number, name in enumerate(COUNTS):
        (tmp_path / "both" / "test" / name).mkdir(parents=True)
        noise(100 + number).save(tmp_path / "both" / "test" / name / "own.png")
    training = tmp_path / "both" / "train" / "cat"
    (tmp_path / "both" / "test" / "cat" / "leak.png").write_bytes((training / "1.png").read_bytes())
    Image.open(training / "2.png").convert("RGB").save(tmp_path / "both" / "test" / "cat" / "near.jpg", quality=90)
    parts = read_parts(tmp_path / "both")
    made = make_split(parts, val=0.3)
    assert made.parts["test"].records == parts["test"].records
    assert [Path(name).name for name in made.copies] == ["1.png", "2.png"]
    assert made.parts["train"].counts() == (6, 15, 3)
    assert made.parts["val"].counts() == (2, 6, 1)
    shots = make_split(parts, shots=2, val=0.3)
    assert shots.parts["test"].records == parts["test"].records
    assert (shots.parts["train"].counts(), shots.parts["val"].counts()) == ((2, 2, 2), (2, 6, 1))
    with pytest.raises(ConfigError, match="test part already; leave out --hold-out"):
        make_split(parts, hold_out=0.1)


def test_bad_pictures_stop_it_or_are_left_out(root: Path) -> None:
    (root / "elk" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"elk/bad\.png is not a picture .*--skip-bad"):
        make_split(read_parts(root))
    made = make_split(read_parts(root), skip_bad=True)
    assert [(Path(name).name, reason[:16]) for name, reason in made.unreadable] == [("bad.png", "is not a picture")]
    for number in range(4):
        (root / "elk" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture is left to learn from for elk"):
        make_split(read_parts(root), skip_bad=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out": 1.0}, "--hold-out 1.0 is not a share"),
        ({"val": -0.1}, "--val -0.1 is not a share"),
        ({"hold_out": 0.6, "val": 0.4}, "leave nothing to learn from"),
        ({"shots": 0}, "--shots 0"),
        ({"shots": 2, "hold_out": 0.2}, "give one of them"),
    ],
)
def test_options_that_cannot_be(root: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_split(read_parts(root), **options)


def test_the_split_can_be_written_and_read(tmp_path: Path, root: Path) -> None:
    made = make_split(read_parts(root), val=0.1)
    write_split(tmp_path / "split.json", made.parts)
    assert read_split(tmp_path / "split.json", root) == made.parts


def test_shares_that_leave_nothing_to_learn_from(root: Path) -> None:
    # The share that is tested on where none is named counts too.
    with pytest.raises(DataError, match=r"--hold-out 0\.2 and --val 0\.9 .*left to learn from for cat, dog; give smaller"):
        make_split(read_parts(root), val=0.9)
