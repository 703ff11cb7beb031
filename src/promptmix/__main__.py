"""``python -m promptmix``, which is how torchrun starts the command line."""

from __future__ import annotations

from promptmix.cli.main import run

__all__: list[str] = []

if __name__ == "__main__":
    run()
