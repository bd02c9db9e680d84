"""Critiques in a real Chromium: who sees one reads it in the letters of the page, and the verdict says so."""

import time

import pytest

from tunesmith.store.critiques import Critique, add_critiques, arm
from tunesmith.store.project import Project, set_project

pytestmark = pytest.mark.browser


def test_the_verdict_keeps_which_arm_it_belongs_to(open_page, url, workspace, problems, axe):
    groups = {g.id: g for g in workspace.groups("desk")}
    text = "[[2]]: promises **too much**\n[[0]]: fine"
    add_critiques(workspace, [Critique(g, text, 0, "critic") for g in groups])
    share = next(s / 100 for s in range(5, 100) if {arm(g, "me", s / 100) for g in groups} == {"shown", "hidden"})
    set_project(workspace, "desk", Project(critique_share=share), "me")
    page, seen = open_page(f"{url}/rank/desk"), {}
    for n in range(3):
        group = page.get_attribute("#answers", "data-group")
        seen[group] = arm(group, "me", share)
        letters = {card.get_attribute("data-answer"): card.get_attribute("data-name")
                   for card in page.locator(".card").all()}
        assert page.locator("#critique").count() == (seen[group] == "shown")
        if seen[group] == "shown":
            told = page.locator("#critique .text").inner_text()
            assert f"Answer {letters['2']}: promises too much" in told and f"Answer {letters['0']} is held" in told
            assert axe(page) == []
        page.keyboard.press("a")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        end = time.monotonic() + 10
        while len(workspace.rankings("desk")) <= n and time.monotonic() < end:
            time.sleep(0.02)
        if n < 2:
            page.get_by_text("Saved. Here is the next one.").wait_for()
    stored = workspace.rankings("desk")
    assert {r.group: r.trace["critique"] for r in stored} == seen and set(seen) == set(groups)
    assert all(r.trace["moves"] >= 1 for r in stored) and problems == []
