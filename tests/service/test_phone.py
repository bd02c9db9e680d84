"""Pages at 390 px: nothing sticks out, whatever words are in them, and the list of pages shows where one is."""

import pytest
from service_fakes import group

from tunesmith.records import Demonstration, Message
from tunesmith.store import desk

pytestmark = pytest.mark.browser
LONG = "a-very-long-name-that-somebody-chose-without-mercy-0123456789"
WORD = "Donaudampfschifffahrtsgesellschaftskapitaen" * 4


def test_nothing_sticks_out_and_the_navigation_shows_where_one_is(open_page, url, workspace, problems):
    workspace.add_groups(LONG, [group(f"{WORD}?", WORD, "b")])
    desk.add(workspace, LONG, [Demonstration((Message("user", f"{WORD}?"), Message("assistant", WORD)))],
             origin="imported")
    page = open_page(f"{url}/sources", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for path in ("/sources", f"/sources/queue/{LONG}", "/desk", f"/desk/{LONG}", f"/desk/{LONG}/next",
                 f"/desk/{LONG}/write", "/team", f"/manage/{LONG}"):
        page.goto(url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.wait_for_timeout(100)  # the script that scrolls is a module
        left, right = page.evaluate("""(() => {
            const box = document.querySelector(".bar nav [aria-current]").getBoundingClientRect();
            return [box.left, box.right];
        })()""")
        assert left >= 0 and right <= 390, path
    assert problems == []


EVIL = '<img src=x onerror="window.hit=1">'


def test_markup_in_names_notes_and_files_stays_text(open_page, url, workspace, problems, tmp_path):
    from tunesmith.records import Ranking
    from tunesmith.store import team, work
    from tunesmith.store.project import acknowledge, add_guidelines

    add_guidelines(workspace, "desk", f"{EVIL} <script>window.hit=1</script> [x](javascript:window.hit=1)", "me")
    page = open_page(f"{url}/rank/desk", name=EVIL[:30], role="admin")
    acknowledge(workspace, "desk", 1, EVIL[:30])
    claim = work.claim(workspace, "desk", EVIL[:30])
    work.submit(workspace, Ranking("evil-0001", claim.group.id, EVIL[:30], tuple((i,) for i in claim.shown),
                                   claim.shown, rationale=EVIL, flags={"0": [f"other: {EVIL}"]}), claim.token)
    team.quarantine(workspace, EVIL[:30], EVIL, "me")
    bad = tmp_path / "<img src=x onerror=window.hit=1>.zip"
    bad.write_bytes(b"x")
    for path in ("/rank/desk", "/mine", "/mine/evil-0001", "/team", "/account", "/audit", "/manage", "/manage/desk",
                 "/manage/desk/labelers", "/manage/desk/guidelines", "/sources"):
        page.goto(url + path)
        page.wait_for_timeout(50)
        assert page.evaluate("window.hit") is None and page.locator("main img").count() == 0, path
    page.locator("#file").set_input_files(bad)
    page.fill("#name", "brought")
    page.click("#send")
    page.get_by_text("unknown kind of file").wait_for()
    assert page.evaluate("window.hit") is None and page.locator("main img").count() == 0
    assert [p for p in problems if "400" not in p] == []
