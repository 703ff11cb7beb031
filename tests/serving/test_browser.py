"""The page in a real browser: pictures answered, classes changed, by keyboard alone, on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.serving.browser import browser
from tests.serving.conftest import TOKEN
from tests.serving.process import served


@pytest.mark.browser
def test_the_page_in_a_browser(folder: Path, tmp_path: Path, pictures: list[bytes]) -> None:
    files = []
    for place, content in enumerate(pictures[:3]):
        files.append(tmp_path / f"{place}.png")
        files[-1].write_bytes(content)
    with browser(tmp_path / "browser") as page, served(folder, "--allow-class-changes") as (_, address):
        page.size(1200, 900)
        page.call("Page.navigate", url=address)
        page.until("document.querySelectorAll('#classes li').length === 4")
        version = page.evaluate("document.getElementById('version').textContent")
        page.choose_files("#files", files)
        page.until("document.querySelectorAll('#answers table').length === 3")
        assert page.evaluate("document.querySelectorAll('#answers tr').length") == 12
        page.until("document.getElementById('status').textContent.includes('%')")
        assert "template" not in page.evaluate("document.getElementById('status').textContent")
        assert page.evaluate("document.querySelectorAll('#answers details li').length") >= 3
        page.evaluate("document.querySelector('#answers summary').focus()")
        page.press("Enter", 13)
        page.until("document.querySelector('#answers details').open")
        page.screenshot(tmp_path / "answers.png")
        page.evaluate("document.getElementById('token').focus()")
        page.write(TOKEN)
        page.press("Tab", 9)
        assert page.evaluate("document.activeElement.id") == "name"
        page.write("heart")
        page.press("Enter", 13)
        page.until("document.querySelectorAll('#classes li').length === 5")
        page.until("document.querySelectorAll('#answers tr').length === 15")
        assert page.evaluate("document.getElementById('version').textContent") != version
        page.until("document.getElementById('status').textContent.startsWith('heart added')")
        page.evaluate("document.querySelector('[aria-label=\"Remove class cat\"]').focus()")
        page.press("Enter", 13)
        page.until("document.querySelectorAll('#classes li').length === 4")
        page.until("document.getElementById('status').textContent.startsWith('cat removed')")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove class snowflake"
        assert "cat" not in page.evaluate("document.getElementById('classes').innerText")
        names = page.names("button", "textbox", "combobox", "image", "Iframe")
        assert all(names), names
        assert "Remove class heart" in names
        page.size(360, 740)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.screenshot(tmp_path / "phone.png")
        assert page.complaints == []
        for shot in ("answers.png", "phone.png"):
            assert (tmp_path / shot).stat().st_size > 5000


@pytest.mark.browser
def test_a_late_answer_does_not_take_the_place_of_a_newer_one(folder: Path, tmp_path: Path, pictures: list[bytes]) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(pictures[0])
    answers_when_told = """
        window.held = [];
        window.real = window.fetch;
        window.fetch = (path, options) => !path.startsWith("v1/predict") ? real(path, options) : new Promise(go => {
            const version = document.getElementById("version").textContent;
            const said = name => ({ class: name, probability: 1, top: [], experts: [] });
            held.push(name => go(new Response(JSON.stringify({ model: "drawings", version, predictions: [said(name)] }))));
        });
        0"""
    shown = "document.querySelector('#answers h3').textContent"
    with browser(tmp_path / "browser") as page, served(folder) as (_, address):
        page.call("Page.navigate", url=address)
        page.until("document.querySelectorAll('#classes li').length === 4")
        page.evaluate(answers_when_told)
        page.choose_files("#files", [picture])
        page.until("held.length === 1")
        page.evaluate("document.getElementById('model').dispatchEvent(new Event('change'))")
        page.until("held.length === 2")
        page.evaluate("held[1]('newer')")
        page.until(f"document.querySelector('#answers h3') && {shown}.startsWith('newer')")
        page.evaluate("held[0]('older')")
        page.evaluate("new Promise(go => setTimeout(go, 200))")
        assert page.evaluate(shown).startswith("newer")
        assert page.evaluate("document.getElementById('status').textContent").startswith("picture.png: newer")
        assert page.complaints == []
