"""Markdown that can do nothing: what a model or a person writes never becomes more than text with marks."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.service import markdown
from tunesmith.service.markdown import plain, render, unseen

ATTACKS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
    "<iframe src=//evil.example>",
    "[a](javascript:alert(1))", "[a](JaVaScRiPt:alert(1))", "[a](java&#x0A;script:alert(1))", "[a](vbscript:x)",
    "[a](data:text/html;base64,PHNjcmlwdD4=)", "[a](//evil.example)", "[a](/account)", "[a](file:///etc/passwd)",
    "![x](https://evil.example/p.png)", '![x](x "onerror=alert(1)")', "<javascript:alert(1)>",
    "[a]: javascript:x\n\n[a]",
    '[a](https://x.org "onmouseover=alert(1)")', '[a](https://x.org/"onclick="alert(1))', "```\"><script>\nx\n```",
    "<math><mi//xlink:href=\"data:x,<script>\">", "<style>*{display:none}</style>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "[![a](javascript:1)](javascript:2)", "<a href='https://x.org' onclick=alert(1)>x</a>",
    "| a |\n|---|\n| <b onclick=x> |",
]


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def harmless(html):
    for tag, attributes in Tags(html).found:
        assert tag in markdown._TAGS
        assert set(attributes) <= {"a": {"href", "rel", "target"}, "ol": {"start"}, "p": {"class"},
                                   "span": {"class", "title"}}.get(tag, set()), (tag, attributes)
        assert re.match(r"(https?://|mailto:)", attributes.get("href", "https://"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_stay_text(attack):
    harmless(render(attack))
    harmless(plain(attack))


@given(st.lists(st.sampled_from([*ATTACKS, *"<>[]()!`*_#\n\t |-\"'&;\\", "https://x.org", "\u202e", "\u200b"])))
def test_mixtures_of_attacks_stay_text(parts):
    harmless(render("".join(parts)))


def test_what_markdown_means_is_shown():
    html = render("# Title\n\nOne\ntwo **bold** `a < b`\n\n3. x\n\n| a |\n|---|\n| 1 |\n\n~~no~~")
    for part in ['<p class="heading"><strong>Title</strong></p>', "One<br>", "<strong>bold</strong>",
                 "<code>a &lt; b</code>", '<ol start="3">', "<td>1</td>", "<s>no</s>"]:
        assert part in html
    assert "<h1" not in html


def test_links_open_elsewhere_and_tell_nothing():
    assert render("[x](https://x.org/?a=1&b=2)") == (
        '<p><a href="https://x.org/?a=1&amp;b=2" target="_blank" rel="noopener noreferrer nofollow">x</a></p>\n')
    assert 'href="mailto:a@x.org"' in render("<a@x.org>")


def test_pictures_are_named_and_never_loaded():
    assert render("![a cat](https://x.org/c.png)") == (
        '<p><span class="picture">[picture: a cat https://x.org/c.png]</span></p>\n')


@pytest.mark.parametrize("text, mark", [
    ("a\u202eb", '<span class="unseen" title="right-to-left override">U+202E</span>'),
    ("a\u200b\u200b\u200bb", '<span class="unseen" title="zero width space × 3">U+200B × 3</span>'),
    ("a\u2066b", "U+2066"), ("a\x1bb", "U+001B"), ("a\U000e0041b", "U+E0041"), ("a\u200db", "U+200D"),
    ("a\ufeffb", "U+FEFF"), ("a\u3164b", "U+3164"), ("&#x202e;", "U+202E"),
])
def test_what_is_not_seen_gets_a_mark(text, mark):
    assert mark in render(text)
    assert not re.search("[\u200b\u202e\u2066\x1b\ufeff\u3164]", render(text) + plain(text))


@pytest.mark.parametrize("text", ["👩‍👩‍👧", "می‌خواهم", "क्‍ष", "a\r\nb", "tab\there", "naïve — “quotes” …", "❤️"])
def test_scripts_and_emoji_that_need_joiners_keep_them(text):
    assert "unseen" not in render(text) and unseen(text) == 0


def test_unseen_characters_in_a_link_are_harmless():
    harmless(render("[x\u202e](https://x.org/\u202e)"))


@pytest.mark.parametrize("text", ["[" * 50_000, "*a_" * 30_000, "![[" * 20_000, ">" * 50_000, "[a](" * 20_000,
                                  "|a" * 20_000 + "\n" + "|-" * 20_000, "\u200b \u200c" * 30_000, "x" * 300_000])
def test_hostile_lengths_end_soon(text):
    start = time.monotonic()
    render(text)
    assert time.monotonic() - start < 8  # about 1 s
