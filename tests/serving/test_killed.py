"""Whoever changes classes may be killed at any moment: the folder is the old model or the new one, and nothing piles up in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving import killed_changes


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_a_killed_change_of_classes_breaks_nothing(trained: Path, tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    command = [sys.executable, killed_changes.__file__, str(trained), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    # Each of the seams was passed, before and after, for the class features and then for the card; from the first renaming on the model
    # is the new one.
    seams = 2 * (len(killed_changes.SEAMS) - 1)  # bytes are written to the one, text to the other
    assert seen["at every step"] == {"steps": 2 * seams, "old": seams - 1, "new": seams + 1}
    assert seen["at random moments"]["killed"] >= 3
    assert seen["over HTTP"]["changes"] >= 4
