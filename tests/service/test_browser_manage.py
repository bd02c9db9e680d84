"""The manager's pages and dashboards in Chromium: by pointer, by keyboard alone, on a phone; axe finds nothing."""

import re

import pytest
from test_manage import judge, panel  # noqa: F401  (a fixture)

from tunesmith.store import project, team, work

pytestmark = pytest.mark.browser
SIZES = {"desk": {"viewport": {"width": 1200, "height": 900}},
         "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}}


def tab_to(page, name):
    """Move on by Tab until what has the focus is called `name`."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if name in page.evaluate("""(e => e.matches('a, button, input, select, textarea, summary')
                                    ? `${e.labels?.[0]?.textContent}|${e.ariaLabel}|${e.textContent}` : ''
                                    )(document.activeElement)"""):
            return
    pytest.fail(f"no way to {name} by Tab")


@pytest.mark.parametrize("size", SIZES)
def test_from_the_overview_to_a_quarantine_and_back_by_pointer(open_page, url, workspace, panel, problems, size):  # noqa: F811
    page = open_page(f"{url}/manage", ready=False, **SIZES[size])
    page.get_by_role("link", name="Labelers of desk").click()
    row = page.get_by_role("row").filter(has=page.get_by_text("upside", exact=True))
    row.get_by_text("Quarantine…").click()
    row.get_by_role("button", name="Put upside in quarantine").click()  # the reasons are there as a start
    page.get_by_text("In quarantine: left out").wait_for()
    assert team.quarantined(workspace) == {"upside"}
    page.get_by_role("button", name="Lift the quarantine of upside").click()
    page.get_by_text("The quarantine is lifted").wait_for()
    assert not team.quarantined(workspace)
    page.get_by_role("link", name="What if we drop upside?").click()
    page.get_by_text("40 verdicts would be left out.").wait_for()
    assert "--without upside" in page.inner_text("pre")
    assert problems == []


def test_settings_guidelines_and_a_test_question_by_keyboard_alone(open_page, url, workspace, problems):
    page = open_page(f"{url}/manage/desk/settings", ready=False)
    tab_to(page, "Ratings")
    page.keyboard.press("Space")
    tab_to(page, "Verdicts for each group")
    page.keyboard.type("4")  # Tab selected what was there
    page.keyboard.press("Enter")
    page.get_by_text("Saved.").wait_for()
    now = project.project(workspace, "desk")
    assert now.ratings and now.overlap == 4 and now.open
    page.goto(f"{url}/manage/desk/guidelines")
    while page.evaluate("document.activeElement.tagName") != "TEXTAREA":
        page.keyboard.press("Tab")
    page.keyboard.type("Be **kind**.")
    tab_to(page, "Preview")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="As labelers see it").wait_for()
    tab_to(page, "Publish")
    page.keyboard.press("Enter")
    page.get_by_text("Version 1 is out").wait_for()
    assert project.guidelines(workspace, "desk") == (1, "Be **kind**.")
    one = workspace.groups("desk")[1]
    page.goto(f"{url}/manage/desk/gold")
    tab_to(page, "What is the rate 1?")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="The right order").wait_for()
    for letter, place in zip("ABCD", "2134"):
        tab_to(page, f"Place of answer {letter}")
        page.keyboard.type(place)
    tab_to(page, "Make it a test question")
    page.keyboard.press("Enter")
    page.get_by_text("B > A > C > D").wait_for()
    assert project.gold(workspace, "desk") == {one.id: ((1,), (0,), (2,), (3,))}
    assert problems == []


def test_a_contested_group_reaches_the_reviewer(open_page, url, workspace, problems):
    judge(workspace, "ann", [[0, 1, 2, 3]])
    judge(workspace, "bob", [[3, 2, 1, 0]])
    page = open_page(f"{url}/manage/desk/contested", ready=False, **SIZES["phone"])
    page.get_by_text("The answers").click()
    assert page.get_by_text("It is 0.0 percent.").is_visible()
    page.get_by_role("button", name="Send to a reviewer").tap()
    page.get_by_text("1 group goes to a reviewer").wait_for()
    reviewer = open_page(f"{url}/rank/desk", name="rae", role="reviewer")
    assert reviewer.get_by_text("What is the rate 0?").first.is_visible()
    assert problems == []


def test_curves_grow_while_a_run_goes_on(open_page, url, workspace, problems):
    run = workspace.start_run("sft", {}, 0, {})
    run.log(1, {"loss": 3.0})
    page = open_page(f"{url}/runs/{run.id}")
    page.get_by_text("No curves yet").wait_for()
    run.log(2, {"loss": 2.0})
    page.locator("figure svg").wait_for()
    before = page.locator("figure polyline").get_attribute("points")
    run.log(3, {"loss": 1.0})
    page.wait_for_function("p => document.querySelector('figure polyline').getAttribute('points') !== p", arg=before)
    run.finish("finished", {})
    page.get_by_text("finished", exact=True).first.wait_for()
    assert page.locator("[data-pending]").count() == 0 and problems == []


def test_figures_that_were_not_ready_appear_by_themselves(open_page, url, workspace, panel, problems, monkeypatch):  # noqa: F811
    from tunesmith.service import figures

    true, slow = figures._figures, 2.5

    def late(*args):
        import time

        time.sleep(slow)
        return true(*args)

    monkeypatch.setattr(figures, "_figures", late)
    page = open_page(f"{url}/manage/desk/labelers")
    assert page.get_by_text("Figures are being computed").is_visible()
    page.get_by_role("link", name="What if we drop upside?").wait_for()
    assert problems == []


def test_from_a_model_to_what_it_was_made_from_by_keyboard(open_page, url, workspace, problems):
    workspace.publish_adapter("polite", "policy", {"spec": "tiny", "hash": "0"},
                              lambda f: (f / "adapter_config.json").write_text("{}") and None,
                              {"parents": {"policy": "tone@2", "reward": "judge@1"}})
    page = open_page(f"{url}/adapters", ready=False)
    tab_to(page, "polite@1")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="polite@1").wait_for()
    tab_to(page, "judge@1")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="judge@1").wait_for()
    assert problems == []


PAGES = ["/manage", "/manage/desk", "/manage/desk/labelers", "/manage/desk/without?labeler=upside",
         "/manage/desk/contested", "/manage/desk/settings", "/manage/desk/guidelines?version=1", "/manage/desk/gold",
         "/manage/desk/gold/GROUP", "/audit?check=1", "/runs", "/runs/RUN", "/adapters", "/adapters/tone@1", "/reports"]


@pytest.mark.parametrize(("size", "scheme"), [
    pytest.param("desk", "light", marks=pytest.mark.slow), ("phone", "dark"),
    pytest.param("desk", "dark", marks=pytest.mark.slow), pytest.param("phone", "light", marks=pytest.mark.slow)])
def test_axe_finds_nothing_and_nothing_sticks_out(open_page, url, workspace, panel, axe, problems, size, scheme):  # noqa: F811
    long = "Wilhelmina-Alexandra von und zu Hohenlohe-Schillingsfuerst Abc"
    judge(workspace, long, [panel[0]] * 40)
    groups = workspace.groups("desk")
    work.mark_contested(workspace, "desk", [g.id for g in groups[:3]])
    project.set_gold(workspace, "desk", groups[0].id, ((0,), (1, 2, 3)), "me")
    project.add_guidelines(workspace, "desk", "# Be kind\n\n- **true** first", "me")
    team.quarantine(workspace, "upside", "upside down " * 20, "me")
    run = workspace.start_run("sft", {"data": "x" * 80}, 0, {"x" * 64: "abc"})
    for step in (1, 2, 3):
        run.log(step, {"loss": 1 / step, "held_out_loss": 2 / step, "a_very_long_name_of_a_metric_of_this_run": step})
    run.finish("failed", {"error": "out of memory " * 10})
    (workspace.root / "reports" / "week-1").mkdir(parents=True)
    (workspace.root / "reports" / "week-1" / "report.html").write_text("<h1>Better</h1>")
    page = open_page(f"{url}/manage", ready=False, color_scheme=scheme, **SIZES[size])
    for path in PAGES:
        page.goto(url + path.replace("GROUP", groups[1].id).replace("RUN", run.id))
        page.locator("[data-pending]").wait_for(state="detached", timeout=20_000)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert axe(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["viewport"]["width"], path
    assert [p for p in problems if not re.search("40[34]", p)] == []


def test_text_like_markup_does_nothing(open_page, url, workspace, problems):
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }}'
    judge(workspace, evil, [[0, 1, 2, 3]] * 3)
    judge(workspace, "ann", [[3, 2, 1, 0]] * 3)
    team.quarantine(workspace, evil, evil, evil)
    project.add_guidelines(workspace, "desk", evil, "me")
    run = workspace.start_run("sft", {evil: evil}, 0, {evil: evil})
    for step in (1, 2):
        run.log(step, {evil: step})
    page = open_page(f"{url}/manage", ready=False)
    for path in ("", "/desk", "/desk/labelers", "/desk/contested", "/desk/guidelines?version=1"):
        page.goto(f"{url}/manage{path}")
        page.locator("[data-pending]").wait_for(state="detached")
    page.goto(f"{url}/runs/{run.id}")
    page.goto(f"{url}/audit")
    assert evil in page.inner_text("main") and page.locator("img[src=x]").count() == 0
    assert problems == []
