"""The command line called in this process, as the tests of the verbs have it."""

from __future__ import annotations

from tests.cli.conftest import promptmix

__all__ = ["promptmix"]
