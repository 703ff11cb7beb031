from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.backbone_files import write_clip
from torch import Tensor

from promptmix.backbones.base import Backbone, build_vision_tower
from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, PreprocessConfig, TextConfig
from promptmix.backbones.preprocess import resize_and_crop, resize_part
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.weights import load_files, save_folder
from promptmix.data.images import StoredPicture, content_key, open_picture
from promptmix.data.transforms import Augmentation, augmented_view
from promptmix.errors import BackboneError, ConfigError, DataError
from promptmix.features import table
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import Extracted, FeatureBatch, extract_features, iter_features
from promptmix.runtime import numpy_generator

AUGMENTATION = Augmentation(views=2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    config = BackboneConfig(
        embedding_width=16,
        text=TextConfig(
            width=8, layers=1, heads=1, mlp_width=8, context_length=8, vocabulary_size=8, activation="gelu",
            layer_norm_epsilon=1e-5, start_token=6, end_token=7,
        ),
        vision=ModifiedResNetConfig(image_size=32, width=8, layers=(1, 1, 1, 1), heads=4),
        preprocess=PreprocessConfig(resize=32, crop=32, mean=(0.5, 0.5, 0.5), standard_deviation=(0.25, 0.25, 0.25)),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = build_vision_tower(config)
        # One pass in training mode fits the batch norms to the noise, and no constant is added at the end: else all pictures
        # would have nearly the same feature.
        for name, parameter in tower.named_parameters():
            if name.startswith("attnpool.") and name.endswith(("bias", "positional_embedding")):
                parameter.data.zero_()
        for module in tower.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        tower.train()(2 * torch.randn(64, 3, 32, 32))
    folder = tmp_path_factory.mktemp("backbone")
    save_folder(folder, config, {"vision": tower}, torch.tensor(2.0), "{}")
    return load_files(folder, "tiny", with_text=False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(7)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((40 + number, 50)).save(path)
    return paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountingBackbone(Backbone):
    """Counts what it encodes; may stop after some pictures, as a killed run does."""

    sizes: list[int]
    stop_after: int | None

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        if self.stop_after is not None and sum(self.sizes) + len(pixels) > self.stop_after:
            raise KeyboardInterrupt
        self.sizes.append(len(pixels))
        return super().encode_pixels(pixels)


def counted(backbone: Backbone, stop_after: int | None = None) -> CountingBackbone:
    fields = {field.name: getattr(backbone, field.name) for field in dataclasses.fields(backbone)}
    return CountingBackbone(**fields, sizes=[], stop_after=stop_after)


def extract(backbone: Backbone, pictures: Sequence[object], **options: object) -> Extracted:
    return extract_features(backbone, pictures, **options)  # type: ignore[arg-type]


def by_hand(backbone: Backbone, picture: Path, augmentation: Augmentation, seed: int, quick: bool = False) -> Tensor:
    """One picture, one view at a time."""
    way = {"resize_part": resize_part} if quick else {}
    image = open_picture(picture)
    made = [resize_and_crop(image, backbone.config.preprocess)]
    for number in range(1, augmentation.views + 1):
        generator = numpy_generator(seed, f"augmented view {number} of {content_key(picture)}")
        made.append(augmented_view(image, 32, augmentation, generator, **way))
    with torch.no_grad():
        return torch.cat([backbone.encode_pixels(torch.from_numpy(view)[None]) for view in made])


def test_the_table_equals_encoding_one_view_after_the_other(backbone: Backbone, paths: list[Path]) -> None:
    result = extract(backbone, paths, augmentation=AUGMENTATION, seed=3, batch_size=3)
    expected = torch.stack([by_hand(backbone, path, AUGMENTATION, 3) for path in paths])
    torch.testing.assert_close(result.features, expected, atol=1e-5, rtol=0)
    assert result.features.shape == (7, 3, 16)
    assert result.features.dtype == torch.float32
    torch.testing.assert_close(result.features.norm(dim=-1), torch.ones(7, 3))
    assert (result.kept, result.bad, result.from_cache) == (tuple(range(7)), (), 0)
    # The pictures and the views differ, so that a mix-up would show.
    assert torch.pdist(result.features.flatten(0, 1)).min() > 0.02


@pytest.mark.parametrize("batch_size", [1, 2, 6, 64])
def test_any_batch_size_gives_the_same_features(backbone: Backbone, paths: list[Path], batch_size: int) -> None:
    counting = counted(backbone)
    result = extract(counting, paths, augmentation=AUGMENTATION, batch_size=batch_size)
    expected = extract(backbone, paths, augmentation=AUGMENTATION, batch_size=7)
    torch.testing.assert_close(result.features, expected.features, atol=1e-5, rtol=0)
    assert max(counting.sizes) <= batch_size


def test_order_and_company_do_not_matter(backbone: Backbone, paths: list[Path]) -> None:
    forwards = extract(backbone, paths, augmentation=AUGMENTATION).features
    backwards = extract(backbone, paths[:1:-1], augmentation=AUGMENTATION).features
    torch.testing.assert_close(backwards, forwards[2:].flip(0), atol=1e-5, rtol=0)


def test_views_depend_on_the_seed_and_zero_is_a_seed(backbone: Backbone, paths: list[Path]) -> None:
    results = [extract(backbone, paths[:2], augmentation=AUGMENTATION, seed=seed).features for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0][:, 0], results[2][:, 0])
    assert (results[0][:, 1:] - results[2][:, 1:]).norm(dim=-1).min() > 0.02


def test_more_views_keep_the_first_ones(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    none = extract(backbone, paths[:2], augmentation=Augmentation(views=0), cache=cache).features
    few = extract(backbone, paths[:2], augmentation=Augmentation(views=1), cache=cache).features
    counting = counted(backbone)
    many = extract(counting, paths[:2], augmentation=Augmentation(views=3), cache=cache).features
    assert (none.shape[1], few.shape[1], many.shape[1]) == (1, 2, 4)
    assert torch.equal(many[:, :2], few)
    assert sum(counting.sizes) == 2 * 2


def test_the_features_can_be_learnt_from(backbone: Backbone, paths: list[Path]) -> None:
    features = extract(backbone, paths[:2]).features
    assert not features.is_inference() and not features.requires_grad
    weight = torch.ones(16, requires_grad=True)
    (features * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_pictures_in_memory(backbone: Backbone, paths: list[Path]) -> None:
    images = [open_picture(path) for path in paths[:2]]
    expected = extract(backbone, paths[:2]).features
    for pictures in (images, [np.asarray(image) for image in images], [path.read_bytes() for path in paths[:2]]):
        torch.testing.assert_close(extract(backbone, pictures).features, expected, atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------------------------------------- cache


def test_the_second_time_nothing_is_encoded(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache, counting = FeatureCache(tmp_path / "cache"), counted(backbone)
    first = extract(counting, paths, augmentation=AUGMENTATION, cache=cache, batch_size=3)
    assert (first.from_cache, sum(counting.sizes)) == (0, 21)
    again = extract(counting, paths, augmentation=AUGMENTATION, cache=cache, batch_size=5)
    assert (again.from_cache, sum(counting.sizes)) == (7, 21)
    assert torch.equal(first.features, again.features)


def test_a_copy_under_another_name_comes_from_the_cache(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    extract(backbone, paths[:1], cache=cache)
    (tmp_path / "copy.jpg").write_bytes(paths[0].read_bytes())
    assert extract(backbone, [tmp_path / "copy.jpg", paths[1]], cache=cache).from_cache == 1


@pytest.mark.parametrize(
    ("other", "seed"),
    [(Augmentation(views=2, flip=0.25), 0), (Augmentation(views=2, min_scale=0.5), 0), (AUGMENTATION, 1), (None, 0)],
)
def test_views_of_other_settings_are_not_mixed_up(
    backbone: Backbone, paths: list[Path], tmp_path: Path, other: Augmentation | None, seed: int
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    extract(backbone, paths[:2], augmentation=AUGMENTATION, cache=cache)
    mixed = extract(backbone, paths[:2], augmentation=other, seed=seed, cache=cache)
    expected = extract(backbone, paths[:2], augmentation=other, seed=seed)
    torch.testing.assert_close(mixed.features, expected.features, atol=1e-5, rtol=0)


def test_backbones_do_not_share_features(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    extract(backbone, paths[:2], cache=cache)
    assert extract(dataclasses.replace(backbone, fingerprint="another"), paths[:2], cache=cache).from_cache == 0


def test_a_stopped_extraction_goes_on_where_it_was(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        extract(counted(backbone, stop_after=4), paths, cache=cache, batch_size=2)
    counting = counted(backbone)
    result = extract(counting, paths, cache=cache, batch_size=2)
    assert (result.from_cache, sum(counting.sizes)) == (4, 3)
    torch.testing.assert_close(result.features, extract(backbone, paths).features, atol=1e-5, rtol=0)


def test_cached_vectors_of_a_wrong_width_or_without_a_value_are_encoded_again(
    backbone: Backbone, paths: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    wrong = {
        (content_key(paths[0]), "test"): np.ones(5, np.float32),
        (content_key(paths[1]), "test"): np.full(16, np.nan, np.float32),
    }
    cache.put_many(backbone.fingerprint, wrong)
    result = extract(backbone, paths[:2], cache=cache)
    assert result.from_cache == 0
    assert torch.equal(result.features, extract(backbone, paths[:2]).features)
    assert extract(backbone, paths[:2], cache=cache).from_cache == 2


def test_a_cache_that_cannot_store_changes_nothing(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = extract(backbone, paths, cache=FeatureCache(tmp_path / "file" / "cache"), batch_size=3)
    assert torch.equal(result.features, extract(backbone, paths, batch_size=3).features)


# -------------------------------------------------------------------------------------------------------- bad pictures


@pytest.fixture
def some_bad(paths: list[Path], tmp_path: Path) -> list[Path]:
    cut, gone = tmp_path / "cut.png", tmp_path / "gone.png"
    cut.write_bytes(paths[2].read_bytes()[:150])
    return [paths[0], cut, paths[1], gone, paths[2]]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_first_bad_picture_stops_and_is_named(backbone: Backbone, some_bad: list[Path], batch_size: int) -> None:
    with pytest.raises(DataError, match=r"cut\.png is damaged .*pass --skip-bad to leave such pictures out") as caught:
        extract(backbone, some_bad, batch_size=batch_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("with_cache", [True, False])
def test_bad_pictures_are_left_out_and_listed(
    backbone: Backbone, some_bad: list[Path], batch_size: int, with_cache: bool, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache") if with_cache else None
    for hits in (0, 3 if with_cache else 0):
        result = extract(backbone, some_bad, skip_bad=True, batch_size=batch_size, augmentation=AUGMENTATION, cache=cache)
        assert result.kept == (0, 2, 4)
        assert [name for name, _ in result.bad] == [str(some_bad[1]), str(some_bad[3])]
        assert "damaged" in result.bad[0][1] and "does not exist" in result.bad[1][1]
        expected = extract(backbone, [some_bad[index] for index in result.kept], augmentation=AUGMENTATION)
        torch.testing.assert_close(result.features, expected.features, atol=1e-5, rtol=0)
        assert result.from_cache == hits


def test_a_bad_picture_in_memory_is_named_by_its_place(backbone: Backbone, paths: list[Path]) -> None:
    pictures = [paths[0], np.full((5, 5), 7.0)]
    with pytest.raises(DataError, match=r"picture 1: an array of floats must lie within 0 and 1"):
        extract(backbone, pictures)
    assert extract(backbone, pictures, skip_bad=True).bad[0][0] == "picture 1"


def test_no_picture_that_can_be_read(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 2 pictures can be read; the first: .*a\.png does not exist"):
        extract(backbone, [tmp_path / "a.png", tmp_path / "b.png"], skip_bad=True)


def test_no_pictures_and_no_batch(backbone: Backbone, paths: list[Path]) -> None:
    with pytest.raises(DataError, match="no pictures"):
        extract(backbone, [])
    with pytest.raises(ConfigError, match="batch_size is 0"):
        extract(backbone, paths, batch_size=0)


def test_features_that_are_not_finite_are_refused_and_not_stored(
    backbone: Backbone, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    encode: Callable[[Backbone, Tensor], Tensor] = Backbone.encode_pixels
    monkeypatch.setattr(Backbone, "encode_pixels", lambda self, pixels: encode(self, pixels) * torch.nan)
    with pytest.raises(BackboneError, match="not finite"):
        extract(backbone, paths, cache=cache)
    assert cache.size() == 0


def test_a_backbone_without_an_image_tower(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    cache, blind = FeatureCache(tmp_path / "cache"), dataclasses.replace(backbone, vision=None)
    with pytest.raises(BackboneError, match="without its image tower"):
        extract(blind, paths, cache=cache)
    extract(backbone, paths, cache=cache)
    assert extract(blind, paths, cache=cache).from_cache == 7


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(backbone: Backbone, paths: list[Path], threads: int) -> None:
    result = extract(backbone, paths, augmentation=AUGMENTATION, threads=threads)
    assert torch.equal(result.features, extract(backbone, paths, augmentation=AUGMENTATION).features)


def test_large_photographs_are_the_same_with_any_company(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    """Their views are made in another way than those of small pictures."""
    large = [tmp_path / f"{number}.jpg" for number in range(5)]
    for path, small in zip(large, paths, strict=False):
        Image.open(small).resize((640, 480)).save(path)
    expected = torch.stack([by_hand(backbone, path, AUGMENTATION, 3, quick=True) for path in large])
    for options in ({"batch_size": 1}, {"batch_size": 64, "threads": 3}):
        result = extract(backbone, large, augmentation=AUGMENTATION, seed=3, **options)
        torch.testing.assert_close(result.features, expected, atol=1e-5, rtol=0)


def test_reading_ahead_changes_nothing(backbone: Backbone, some_bad: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for ahead in (True, False):
        monkeypatch.setattr("promptmix.features.extract.reads_ahead", lambda _, ahead=ahead: ahead)
        results.append(extract(backbone, some_bad, skip_bad=True, augmentation=AUGMENTATION, batch_size=4))
    assert torch.equal(results[0].features, results[1].features)
    assert (results[0].kept, results[0].bad) == (results[1].kept, results[1].bad)


def test_threads_there_must_be(backbone: Backbone, paths: list[Path]) -> None:
    with pytest.raises(ConfigError, match="threads is 0; it must be at least 1"):
        extract(backbone, paths, threads=0)


def test_progress_is_reported_after_each_batch(backbone: Backbone, some_bad: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    extract(backbone, some_bad, skip_bad=True, batch_size=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_reading_ahead_is_bounded(backbone: Backbone, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    def noted(source: Path) -> Image.Image:
        opened.append(source)
        return open_picture(source)

    monkeypatch.setattr("promptmix.features.reading.open_picture", noted)
    ahead: list[int] = []
    extract(backbone, paths * 4, batch_size=2, on_progress=lambda done, _: ahead.append(len(opened) - done))
    assert max(ahead) <= 2


# --------------------------------------------------------------------------------------------------------- many pictures


def batches(backbone: Backbone, pictures: Iterable[object], **options: object) -> Iterator[FeatureBatch]:
    return iter_features(backbone, pictures, **options)  # type: ignore[arg-type]


def test_batches_put_together_are_the_table(backbone: Backbone, some_bad: list[Path]) -> None:
    whole = extract(backbone, some_bad, skip_bad=True, augmentation=AUGMENTATION, batch_size=6)
    parts = list(batches(backbone, iter(some_bad), skip_bad=True, augmentation=AUGMENTATION, batch_size=6))
    assert [part.done for part in parts] == [2, 4, 5]
    assert torch.equal(torch.cat([part.features for part in parts]), whole.features)
    assert tuple(place for part in parts for place in part.kept) == whole.kept
    assert [picture for part in parts for picture in part.pictures] == [some_bad[place] for place in whole.kept]
    assert tuple(bad for part in parts for bad in part.bad) == whole.bad


@pytest.mark.parametrize("ahead", [True, False])
def test_pictures_are_taken_as_they_are_needed(
    backbone: Backbone, paths: list[Path], monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    monkeypatch.setattr("promptmix.features.extract.reads_ahead", lambda _: ahead)
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        for path in itertools.cycle(paths):
            taken += 1
            yield path

    stream = batches(backbone, endless(), batch_size=4)
    for number in range(1, 10):
        batch = next(stream)
        assert batch.done == 4 * number
        assert taken == batch.done + 4 * ahead
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("promptmix-pictures")]


def test_only_the_views_of_two_batches_are_in_memory(backbone: Backbone, paths: list[Path]) -> None:
    """However many views a picture has."""
    counting, ahead = counted(backbone), 0
    for batch in batches(counting, paths * 4, augmentation=Augmentation(views=9), batch_size=20):
        assert len(batch.kept) == 2
        ahead = max(ahead, sum(counting.sizes) - 10 * batch.done)
    assert ahead == 0
    assert counting.sizes == [20] * 14


@pytest.mark.parametrize("with_cache", [True, False])
def test_memory_does_not_grow_with_the_number_of_pictures(
    backbone: Backbone, paths: list[Path], tmp_path: Path, with_cache: bool
) -> None:
    cache = FeatureCache(tmp_path / "cache") if with_cache else None

    def peak(number: int) -> int:
        gc.collect()
        tracemalloc.start()
        for batch in batches(backbone, itertools.islice(itertools.cycle(paths), number), cache=cache, batch_size=16):
            assert len(batch.kept) <= 16
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(32)  # whatever is made once
    few, many = peak(200), peak(2000)
    # The views of the pictures between the two would take 5.5 MB.
    assert many < few + 1_000_000


def test_a_table_too_large_for_memory_is_the_same(
    backbone: Backbone, some_bad: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    expected = extract(backbone, some_bad, skip_bad=True, augmentation=AUGMENTATION, cache=cache)
    monkeypatch.setattr(table, "_MOST_IN_MEMORY", 0)
    result = extract(backbone, some_bad, skip_bad=True, augmentation=AUGMENTATION, cache=cache)
    assert torch.equal(result.features, expected.features)
    weight = torch.ones(16, requires_grad=True)
    (result.features * weight).sum().backward()  # type: ignore[no-untyped-call]
    if os.name == "posix":
        assert all(path.name.startswith("features-v") for path in (tmp_path / "cache").iterdir())


KILLED = """
import sys, time
from pathlib import Path

from promptmix.backbones.weights import load_files
from promptmix.features import extract
from promptmix.features.cache import FeatureCache

encode, calls = extract._encode, 0

def slowly(backbone, pixels):
    global calls
    calls += 1
    if calls == 4:
        print("in the fourth batch", flush=True)
        time.sleep(600)
    return encode(backbone, pixels)

extract._encode = slowly
backbone = load_files(Path(sys.argv[1]), "tiny", with_text=False)
pictures = sorted(Path(sys.argv[2]).iterdir())
extract.extract_features(backbone, pictures, cache=FeatureCache(Path(sys.argv[3])), batch_size=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
def test_a_killed_extraction_goes_on_where_it_was(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    save_folder(tmp_path / "tiny", backbone.config, {"vision": backbone.vision}, torch.tensor(2.0), "{}")
    arguments = [str(tmp_path / "tiny"), str(paths[0].parent), str(tmp_path / "cache")]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "in the fourth batch\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = counted(load_files(tmp_path / "tiny", "tiny", with_text=False))
    result = extract(again, paths, cache=FeatureCache(tmp_path / "cache"), batch_size=2)
    assert (result.from_cache, again.sizes) == (6, [1])
    torch.testing.assert_close(result.features, extract(backbone, paths).features, atol=1e-5, rtol=0)


@dataclasses.dataclass(frozen=True)
class Member(StoredPicture):
    """A picture inside something else."""

    name: str
    content: bytes

    def read(self) -> bytes:
        return self.content


def test_pictures_inside_other_files_are_known_by_their_names(backbone: Backbone, paths: list[Path]) -> None:
    pictures = [Member("pack.tar/a.png", paths[0].read_bytes()), Member("pack.tar/b.png", b"no picture")]
    result = extract(backbone, pictures, skip_bad=True)
    assert torch.equal(result.features, extract(backbone, paths[:1]).features)
    assert [name for name, _ in result.bad] == ["pack.tar/b.png"]
    assert result.bad[0][1].startswith("pack.tar/b.png is not a picture")


@pytest.fixture(scope="module", params=["bundled", "vision transformer"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    if request.param == "bundled":
        return load_backbone("bundled", device="cpu", with_text=False)
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, "quick_gelu")
    return load_backbone(str(folder), device="cpu", with_text=False)


def steady(backbone: Backbone, pictures: Sequence[object], cache: FeatureCache | None = None) -> Tensor:
    return extract(backbone, pictures, cache=cache, augmentation=AUGMENTATION, seed=3, steady=True).features


def test_steady_features_depend_on_their_picture_alone(tower: Backbone, paths: list[Path], tmp_path: Path) -> None:
    whole = steady(tower, paths)
    # Among these are the vectors of other batches, which differ in the last bits.
    cache = FeatureCache(tmp_path / "features")
    for path in paths:
        extract(tower, [path], cache=cache, augmentation=AUGMENTATION, seed=3)
    assert not torch.equal(extract(tower, paths, cache=cache, augmentation=AUGMENTATION, seed=3).features, whole)
    for places in ([5], [3, 5, 0], [6, 1, 5, 2, 0, 4, 3], [2, 2, 4]):  # the cache is cold, lukewarm and warm
        some = [paths[place] for place in places]
        assert torch.equal(steady(tower, some), whole[places])
        assert torch.equal(steady(tower, some, cache), whole[places])
    alone = extract(tower, paths, cache=cache, seed=3, steady=True)
    assert (alone.from_cache, torch.equal(alone.features[:, 0], whole[:, 0])) == (7, True)


def test_steady_batches_are_always_full(backbone: Backbone, paths: list[Path], tmp_path: Path) -> None:
    counting, cache = counted(backbone), FeatureCache(tmp_path / "features")
    extract(counting, paths[:2], cache=cache, batch_size=3, steady=True)
    result = extract(counting, paths, cache=cache, batch_size=3, steady=True)
    assert counting.sizes == [3, 3, 3, 3]  # two pictures, then one, three and one
    assert result.from_cache == 2
    torch.testing.assert_close(result.features, extract(backbone, paths).features, atol=1e-5, rtol=0)
    # Who does not ask for steadiness takes what is there; who asks for batches of another size does not.
    assert extract(backbone, paths, cache=cache, batch_size=3).from_cache == 7
    assert extract(backbone, paths, cache=cache, batch_size=4, steady=True).from_cache == 0


def test_each_kind_of_device_has_features_of_its_own(backbone: Backbone) -> None:
    def on(kind: str, dtype: torch.dtype) -> Backbone:
        return dataclasses.replace(backbone, vision=copy.deepcopy(backbone.vision)).in_precision(dtype).to(torch.device(kind))

    kinds = [on(kind, dtype) for kind in ("cpu", "meta") for dtype in (torch.float32, torch.bfloat16)]
    assert kinds[0].features_key == backbone.fingerprint
    assert len({one.features_key for one in kinds}) == 4
    assert [one.precision for one in kinds] == ["fp32", "bf16", "fp32", "bf16"]
