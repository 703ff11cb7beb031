"""What the tests of plots share: the figures that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.unit.reporting.made_plots import Drawn


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Every figure that is written, with all that can be read on it, line by line; each is written all the same."""
    figures: Drawn = []
    savefig = Figure.savefig

    def remember(self: Figure, path: Path, **options: Any) -> None:
        savefig(self, path, **options)
        texts = [text for text in self.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]
        figures.append((self, [line for text in texts for line in text.get_text().split("\n")]))

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures
