from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.new_processes import new_processes

from promptmix.features.cache import FeatureCache, Key, default_cache_folder

FINGERPRINT = "0123456789abcdef"


def vector(number: float, width: int = 32) -> np.ndarray:
    return np.random.default_rng(int(number)).standard_normal(width).astype(np.float32)


def vectors(first: int, count: int) -> dict[Key, np.ndarray]:
    return {(f"file:{number}", "test"): vector(number) for number in range(first, first + count)}


def assert_same(found: dict[Key, np.ndarray], expected: dict[Key, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == np.float32


def database(folder: Path) -> Path:
    (path,) = folder.glob("*.sqlite")
    return path


def edit(folder: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(database(folder))
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_what_was_stored_is_found_again_bit_for_bit(tmp_path: Path) -> None:
    stored = vectors(0, 5) | {("file:0", "augmented 1"): vector(99)}
    FeatureCache(tmp_path).put_many(FINGERPRINT, stored)
    cache = FeatureCache(tmp_path)
    assert_same(cache.get_many(FINGERPRINT, [*stored, ("file:7", "test"), ("file:1", "augmented 1")]), stored)
    assert cache.get_many("another", list(stored)) == {}


def test_found_vectors_may_be_written_to(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put_many(FINGERPRINT, vectors(0, 1))
    cache.get_many(FINGERPRINT, [("file:0", "test")])[("file:0", "test")][0] = 1


def test_storing_again_replaces(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put_many(FINGERPRINT, vectors(0, 2))
    cache.put_many(FINGERPRINT, {("file:0", "test"): vector(5, width=8)})
    assert_same(cache.get_many(FINGERPRINT, list(vectors(0, 2))), {**vectors(0, 2), ("file:0", "test"): vector(5, width=8)})


def test_a_column_of_a_table_is_stored_as_a_vector(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    table = np.arange(20, dtype=np.float32).reshape(4, 5)
    cache.put_many(FINGERPRINT, {("a", "test"): table[:, 1]})
    np.testing.assert_array_equal(cache.get_many(FINGERPRINT, [("a", "test")])["a", "test"], [1, 6, 11, 16])


def test_reading_creates_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    assert cache.get_many(FINGERPRINT, [("a", "test")]) == {}
    cache.put_many(FINGERPRINT, {})
    assert not (tmp_path / "cache").exists()


def test_a_fingerprint_never_becomes_a_path(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    for fingerprint in ("../../outside", "a/b", "", "ü"):
        cache.put_many(fingerprint, vectors(0, 1))
        assert_same(cache.get_many(fingerprint, [("file:0", "test")]), vectors(0, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 4


def test_size_and_clear_touch_only_what_is_ours(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.size() == 0
    (tmp_path / "precious.sqlite").write_text("keep")
    cache.put_many(FINGERPRINT, vectors(0, 50))
    assert cache.size() > 50 * 32 * 4
    cache.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["precious.sqlite"]
    assert cache.size() == 0
    cache.put_many(FINGERPRINT, vectors(0, 1))
    assert_same(cache.get_many(FINGERPRINT, [("file:0", "test")]), vectors(0, 1))


# ------------------------------------------------------------------------------------------------------------- folders


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PROMPTMIX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_folder() == tmp_path / ".cache/promptmix"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert default_cache_folder() == tmp_path / "shared/promptmix"
    monkeypatch.setenv("PROMPTMIX_CACHE", str(tmp_path / "mine"))
    assert FeatureCache().folder == tmp_path / "mine"


def test_without_a_home_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PROMPTMIX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    cache = FeatureCache()
    cache.put_many(FINGERPRINT, vectors(0, 1))
    assert cache.get_many(FINGERPRINT, list(vectors(0, 1))) == {}
    assert cache.size() == 0
    cache.clear()
    assert caplog.text.count("without the feature cache") == 1


def test_a_folder_that_cannot_be_made_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "cache")
    for _ in range(3):
        cache.put_many(FINGERPRINT, vectors(0, 1))
        assert cache.get_many(FINGERPRINT, list(vectors(0, 1))) == {}
    cache.clear()
    assert caplog.text.count("without the feature cache") == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_file_that_cannot_be_opened_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(tmp_path)
    cache._path(FINGERPRINT).mkdir()  # type: ignore[union-attr]
    for _ in range(2):
        cache.put_many(FINGERPRINT, vectors(0, 1))
        assert cache.get_many(FINGERPRINT, list(vectors(0, 1))) == {}
    assert caplog.text.count("without the feature cache") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as a full disk would")
def test_a_full_disk_ends_the_storing_but_not_the_reading(tmp_path: Path) -> None:
    code = """
import logging, resource, signal, sys
from pathlib import Path
import numpy as np
from promptmix.features.cache import FeatureCache
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache = FeatureCache(Path(sys.argv[1]))
cache.put_many("a", {("first", "test"): np.ones(8, np.float32)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for number in range(40):
    cache.put_many("a", {(str(number), "test"): np.ones(5000, np.float32)})
assert ("first", "test") in cache.get_many("a", [("first", "test")])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("without the feature cache") == 1
    assert list(tmp_path.glob("*.damaged-*")) == []


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE features SET vector = zeroblob(128) WHERE content = 'file:1'",
        "UPDATE features SET vector = substr(vector, 1, 124) WHERE content = 'file:1'",
        "UPDATE features SET vector = substr(vector, 1, 124), width = 31 WHERE content = 'file:1'",
        "UPDATE features SET vector = x'', width = 0, crc32 = 0 WHERE content = 'file:1'",
        "UPDATE features SET vector = 'text' WHERE content = 'file:1'",
        "UPDATE features SET width = 'wide' WHERE content = 'file:1'",
        "UPDATE features SET crc32 = crc32 + 1 WHERE content = 'file:1'",
        "UPDATE features SET (vector, crc32) = (SELECT vector, crc32 FROM features WHERE content = 'file:2')"
        " WHERE content = 'file:1'",
    ],
)
def test_a_damaged_row_is_missing_and_deleted(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache, stored = FeatureCache(tmp_path), vectors(0, 3)
    cache.put_many(FINGERPRINT, stored)
    edit(tmp_path, damage)
    left = {key: value for key, value in stored.items() if key != ("file:1", "test")}
    assert_same(cache.get_many(FINGERPRINT, list(stored)), left)
    assert "1 damaged rows" in caplog.text
    connection = sqlite3.connect(database(tmp_path))
    assert connection.execute("SELECT count(*) FROM features").fetchone() == (2,)
    connection.close()
    cache.put_many(FINGERPRINT, stored)
    assert_same(cache.get_many(FINGERPRINT, list(stored)), stored)


def overwrite_all(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def overwrite_pages(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[4096:] = b"\xff" * (len(contents) - 4096)
    path.write_bytes(bytes(contents))


def replace_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TABLE features")
        connection.execute("CREATE TABLE features (other TEXT)")
    connection.close()


@pytest.mark.parametrize("damage", [overwrite_all, overwrite_pages, replace_tables])
@pytest.mark.parametrize("reading_first", [True, False])
def test_a_damaged_database_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, damage: object, reading_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache, stored = FeatureCache(tmp_path), vectors(0, 200)
    cache.put_many(FINGERPRINT, stored)
    path = database(tmp_path)
    for number in (1, 2):
        damage(path)  # type: ignore[operator]
        damaged = path.read_bytes()
        if reading_first:
            assert cache.get_many(FINGERPRINT, list(stored)) == {}
        cache.put_many(FINGERPRINT, stored)
        assert_same(cache.get_many(FINGERPRINT, list(stored)), stored)
        assert path.with_name(f"{path.name}.damaged-{number}").read_bytes() == damaged
        assert caplog.text.count("is damaged") == number
    cache.clear()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put_many(FINGERPRINT, vectors(0, 1))
    database(tmp_path).write_bytes(b"")
    assert cache.get_many(FINGERPRINT, list(vectors(0, 1))) == {}
    cache.put_many(FINGERPRINT, vectors(0, 1))
    assert_same(cache.get_many(FINGERPRINT, list(vectors(0, 1))), vectors(0, 1))


# ----------------------------------------------------------------------------------------------------- many at one time


def _write_much(folder: Path, first: int) -> None:
    cache = FeatureCache(folder)
    for start in range(first, first + 100, 5):
        cache.put_many(FINGERPRINT, vectors(start, 5))
        assert len(cache.get_many(FINGERPRINT, list(vectors(start, 5)))) == 5


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    context = new_processes()
    # The second and the third write the same rows.
    writers = [context.Process(target=_write_much, args=(tmp_path, first)) for first in (0, 50, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert_same(FeatureCache(tmp_path).get_many(FINGERPRINT, list(vectors(0, 150))), vectors(0, 150))


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: cache.put_many(FINGERPRINT, vectors(start, 5)), range(0, 100, 5)))
        found = list(pool.map(lambda start: cache.get_many(FINGERPRINT, list(vectors(start, 5))), range(0, 100, 5)))
    for start, one in zip(range(0, 100, 5), found, strict=True):
        assert_same(one, vectors(start, 5))


def test_a_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import numpy as np
from promptmix.features import cache as module
folder = Path(sys.argv[1])
cache = module.FeatureCache(folder)
cache.put_many("a", {("whole", "test"): np.ones(8, np.float32)})
with module._connected(cache._path("a")) as connection:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO features VALUES (?, ?, ?, ?, ?)", module._row(("half", "test"), np.ones(8, np.float32)))
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    found = FeatureCache(tmp_path).get_many("a", [("whole", "test"), ("half", "test")])
    assert found.keys() == {("whole", "test")}
