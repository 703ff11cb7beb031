"""``python -m promptmix``, which is how torchrun starts the command line."""

from __future__ import annotations

from promptmix.cli.main import run

__all__ = []

if __name__ == "__main__":
    run()
