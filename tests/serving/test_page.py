"""The page: one file, nothing from outside, a policy that holds, names for everything one can use."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from html.parser import HTMLParser

from tests.serving.conftest import Services, client_of

from promptmix.serving.page import page_with_policy


class Seen(HTMLParser):
    """What a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_comes_with_its_policy(service: Services) -> None:
    async def ask() -> None:
        async with client_of(service()) as client:
            answer = await client.get("/")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            for kind in ("script", "style"):
                (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"{kind}-src 'sha256-{digest}'" in policy

    asyncio.run(ask())


def test_nothing_comes_from_outside_and_nothing_is_inline_that_the_policy_stops() -> None:
    content, _ = page_with_policy()
    assert "//" not in re.sub(r"data:,", "", content).replace("/*", "").replace("*/", "")
    assert "innerHTML" not in content
    seen = Seen()
    seen.feed(content)
    for tag, attributes in seen.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "action"):
            assert attributes.get(name, "data:,") == "data:,", (tag, name)


def test_everything_one_can_use_has_a_name() -> None:
    content, _ = page_with_policy()
    seen = Seen()
    seen.feed(content)
    labelled = {attributes.get("for") for tag, attributes in seen.tags if tag == "label"}
    for tag, attributes in seen.tags:
        if tag in ("input", "select"):
            assert attributes.get("id") in labelled or attributes.get("aria-label"), attributes
    named = {attributes.get("id") for _, attributes in seen.tags}
    for _, attributes in seen.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in named
    assert ("html", {"lang": "en"}) in seen.tags
    assert any(attributes.get("aria-live") == "polite" for _, attributes in seen.tags)
    assert any(attributes.get("name") == "viewport" for _, attributes in seen.tags)
