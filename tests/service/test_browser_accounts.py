"""The doors and the team in Chromium: by pointer, by keyboard alone, on a phone; axe finds nothing."""

import re

import pytest

from tunesmith.store import audit, keys, team

pytestmark = pytest.mark.browser
GOOD = "copper lantern umbrella"
SIZES = {"desk": {"viewport": {"width": 1200, "height": 900}},
         "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}}


@pytest.fixture
def stranger(chromium, problems):
    """`stranger(**options)`: a page of a fresh browser."""
    contexts = []

    def open(**options):
        contexts.append(chromium.new_context(**{"reduced_motion": "reduce", **SIZES["desk"], **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("dialog", lambda d: (problems.append(f"dialog {d.message}"), d.dismiss()))
        return page

    yield open
    for context in contexts:
        context.close()


def test_from_an_invitation_to_work_and_back_by_pointer(stranger, signed_url, url, workspace, problems):
    boss = stranger()
    boss.goto(signed_url(f"{url}/team"))
    boss.get_by_label("reviewer: ranks, reviews").check()
    boss.get_by_role("button", name="Make the link").click()
    link = boss.get_by_label("Send this link to the person").input_value()
    assert boss.get_by_text("somebody as reviewer, by me").is_visible()
    ann = stranger()
    ann.goto(link)
    ann.get_by_label("Name").fill("ann")
    ann.get_by_label("Password", exact=True).fill(GOOD)
    ann.get_by_label("The same password again").fill(GOOD)
    ann.get_by_role("button", name="Join").click()
    ann.get_by_role("heading", name="Rank answers").wait_for()
    assert team.account(workspace, "ann").role == "reviewer"
    boss.goto(f"{url}/team")
    boss.get_by_label("Role of ann", exact=True).select_option("labeler")
    boss.get_by_role("button", name="Change the role of ann").click()
    boss.get_by_text("ann is now labeler").wait_for()
    ann.goto(f"{url}/rank/desk")
    ann.get_by_role("heading", name="Sign in").wait_for()  # the change signed her out; it leads back
    ann.get_by_label("Name").fill("ann")
    ann.get_by_label("Password").fill(GOOD)
    ann.get_by_role("button", name="Sign in").click()
    ann.wait_for_url(f"{url}/rank/desk")
    ann.goto(f"{url}/account")
    ann.get_by_role("button", name="Sign out", exact=True).click()
    ann.get_by_role("heading", name="Sign in").wait_for()
    assert problems == []


def tab_to(page, name):
    """Move on by Tab until what has the focus is called `name`."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if name in page.evaluate("""(e => (e?.labels?.[0]?.innerText ?? '') + '|' + (e?.ariaLabel ?? '') + '|'
                                    + (e?.innerText ?? ''))(document.activeElement)"""):
            return
    pytest.fail(f"no way to {name} by Tab")


def test_sign_in_a_password_a_key_and_the_team_by_keyboard_alone(stranger, url, workspace, problems):
    team.new_account(workspace, "lea", "admin", "me", GOOD)
    page = stranger()
    page.goto(f"{url}/account")
    page.wait_for_function("document.activeElement.id === 'name'")
    page.keyboard.type("lea")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong password")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("do not fit").wait_for()
    assert [p for p in problems if "401" not in p] == []  # Chromium notes the status, nothing else
    problems.clear()
    page.wait_for_function("document.activeElement.id === 'password'")  # the name is kept
    page.keyboard.type(GOOD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/account")
    for field, text in (("Current password", GOOD), ("New password", "violet tram ostrich"),
                        ("The same again", "violet tram ostrich")):
        tab_to(page, field)
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("Your password is changed").wait_for()
    tab_to(page, "What will use it")
    page.keyboard.type("nightly")
    tab_to(page, "chat")
    page.keyboard.press("Space")
    tab_to(page, "Your password")
    page.keyboard.type("violet tram ostrich")
    tab_to(page, "Make a key")
    page.keyboard.press("Enter")
    secret = page.get_by_label("Your new key").input_value()
    assert keys.key(workspace, secret)[1].scopes == ("chat",)
    tab_to(page, "Revoke the key nightly")
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("revoked").wait_for()
    assert keys.key(workspace, secret) is None
    page.goto(f"{url}/team")
    tab_to(page, "labeler: ranks and writes")
    page.keyboard.press("ArrowDown")  # the next role
    page.keyboard.press("Enter")
    page.get_by_label("Send this link").wait_for()
    asked, = team.invitations(workspace)
    assert asked.role == "viewer" and asked.by == "lea"
    tab_to(page, "Withdraw the invitation")
    page.keyboard.press("Enter")
    page.get_by_text("The invitation is withdrawn").wait_for()
    assert audit.verify_audit(workspace)[0] > 5 and problems == []


@pytest.mark.parametrize(("size", "scheme"), [
    pytest.param("desk", "light", marks=pytest.mark.slow), ("phone", "dark"),
    pytest.param("desk", "dark", marks=pytest.mark.slow), pytest.param("phone", "light", marks=pytest.mark.slow)])
def test_axe_finds_nothing_and_nothing_sticks_out(stranger, signed_url, url, workspace, axe, problems, size, scheme):
    long = "Wilhelmina-Alexandra von und zu Hohenlohe-Schillingsfuerst Abc"
    team.new_account(workspace, long, "labeler", "me", GOOD)
    key = team.invite(workspace, "labeler", "me")
    keys.create_key(workspace, "me", "a very long name of what uses this key every night", list(keys.SCOPES), "me")
    page = stranger(**SIZES[size], color_scheme=scheme)

    def check():
        assert axe(page) == [], page.url
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["viewport"]["width"], page.url

    for path in ("/signin", f"/invite?key={key}", "/invite?key=gone"):
        page.goto(f"{url}{path}")
        check()
    page.goto(signed_url(f"{url}/account"))
    check()
    page.goto(f"{url}/team")
    check()
    page.get_by_role("button", name="Make the link").click()
    page.get_by_label("Send this link").wait_for()
    check()
    small = page.eval_on_selector_all("button, select, input:not([type=hidden])", """found => found
        .filter(e => e.checkVisibility()).map(e => [e.outerHTML, Math.min(...['width', 'height']
        .map(k => (e.closest('label') ?? e).getBoundingClientRect()[k]))]).filter(([, least]) => least < 24)""")
    assert small == []  # WCAG 2.2 SC 2.5.8
    page.goto(signed_url(f"{url}/team", name="vic", role="viewer"))
    check()  # somebody else is signed in: the link asks first
    page.get_by_role("button", name="Enter").click()
    page.get_by_role("heading", name="Refused").wait_for()
    check()
    assert [p for p in problems if not re.search("40[34]", p)] == []


def test_names_and_keys_like_markup_do_nothing(stranger, signed_url, url, workspace, problems):
    evil = ['<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', "javascript:alert(3)", "{{ 7*7 }}"]
    for name in evil:
        team.new_account(workspace, name, "labeler", evil[0])
        team.invite(workspace, "labeler", name, name=f"{name} jr")
        keys.create_key(workspace, name, name, ["rank"], name)
    page = stranger()
    page.goto(signed_url(f"{url}/team"))
    text = page.inner_text("main")
    assert all(name in text for name in evil)
    page.goto(f"{url}/signin?next={evil[1]}")
    page.goto(signed_url(f"{url}/account", name=evil[1], role="labeler"))
    page.get_by_role("button", name="Enter").click()
    page.get_by_role("heading", name=evil[1]).wait_for()
    assert problems == []
