"""The team as the store keeps it: who may come in, for how long, and that every change is written down."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tunesmith.errors import NotFound, StorageError, UserError
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import audit, keys, passwords, tables, team

GOOD = "copper lantern umbrella"


@pytest.fixture(autouse=True)
def quick_hashing(monkeypatch):
    """argon2id as everywhere, with less work."""
    from argon2 import PasswordHasher

    hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    passwords._nobody.cache_clear()


@pytest.fixture
def later(monkeypatch):
    """`later(days=8)`: the store's clock goes that far ahead."""
    def move(**time):
        there = datetime.now(UTC) + timedelta(**time)
        for module in (team, keys):
            monkeypatch.setattr(module, "now", lambda: there.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))

    return move


@pytest.fixture
def staff(workspace):
    """A workspace with an admin, a manager and a labeler."""
    for name, role in (("ada", "admin"), ("max", "manager"), ("lea", "labeler")):
        team.new_account(workspace, name, role, "test", GOOD)
    return workspace


def column(workspace, *columns):
    with workspace.database.read() as c:
        return c.execute(sa.select(*columns)).all()


def actions(workspace):
    return [e.action for e in audit.entries(workspace)][::-1]


def judge(workspace, name, simulated=False):
    group = AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")))
    workspace.add_groups("s", [group])
    workspace.add_ranking(Ranking(f"r-{name}", group.id, name, ((0,), (1,)), simulated=simulated))


# ---- passwords

@pytest.mark.parametrize("bad", [
    "violet", "password12", "P@ssw0rd123!", "passwordpassword", "1234567890", "0987654321", "qwertyuiop", "QWERTYUIOP1",
    "aaaaaaaaaaaa", "abababababab", "abcdefghijkl", "letmein12345", "tunesmith2026", "ada!!!!!!!!1", "iloveyou2024", "",
    "1q2w3e4r5t", "x" * 201])
def test_passwords_that_guessers_try_are_refused_without_repeating_them(bad):
    with pytest.raises(UserError) as error:
        passwords.check_password(bad, "ada")
    assert not bad or bad not in str(error.value)


@pytest.mark.parametrize("good", [GOOD, "violet tram ostrich", "Xk9#mQ2$vL", "我喜欢在下雨天去散步和看书",
                                  "pppqzwtuvrls", "é" + GOOD])
def test_good_passwords_are_taken_in_any_script(good):
    assert passwords.check_password(good, "ada")


def test_a_password_is_kept_as_argon2id_and_fits_in_either_unicode_form(monkeypatch):
    monkeypatch.undo()  # argon2-cffi's own defaults
    passwords._hasher.cache_clear()
    stored = passwords.hash_password("caf\u00e9 violet ostrich")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.fits("cafe\u0301 violet ostrich", stored) and not passwords.fits("cafe violet ostrich", stored)


def test_no_password_and_a_broken_hash_fit_nothing():
    assert not passwords.fits("", "") and not passwords.fits(GOOD, "") and not passwords.fits(GOOD, "plain text")


def test_somebody_unknown_costs_the_same_work(staff, monkeypatch):
    from argon2 import PasswordHasher

    work = []

    class Counting(PasswordHasher):
        def verify(self, stored, password):
            work.append(stored.split("$")[3])
            return super().verify(stored, password)

    hasher = Counting(time_cost=1, memory_cost=1024, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    passwords._nobody.cache_clear()
    team.new_account(staff, "linked", "labeler", "test")
    team.set_active(staff, "lea", False, "ada")
    tries = [("ada", GOOD), ("ada", "wrong password"), ("nobody", GOOD), ("linked", ""), ("lea", GOOD)]
    assert [bool(team.sign_in(staff, *t)) for t in tries] == [True, False, False, False, False]
    assert work == ["m=1024,t=1,p=1"] * 5


# ---- accounts

def test_the_owner_is_made_once_as_an_admin(workspace):
    assert team.owner(workspace, "me") == team.owner(workspace, "me")
    me, = team.accounts(workspace)
    assert (me.name, me.role, me.active, me.password) == ("me", "admin", True, False)
    team.new_account(workspace, "ada", "admin", "me")
    team.set_active(workspace, "me", False, "ada")
    with pytest.raises(UserError, match='team activate "me"'):
        team.owner(workspace, "me")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 65, "\u202eevil", "LEA", "Le\u0430".replace("\u0430", "a"),
                                  "ｌｅａ", " lea ", "Command Line", "robot"])
def test_a_name_is_printable_and_cannot_be_taken_for_another(staff, name):
    judge(staff, "robot", simulated=True)
    with pytest.raises(UserError):
        team.new_account(staff, name, "labeler", "ada")
    assert len(team.accounts(staff)) == 3


def test_names_of_any_script_and_names_like_markup_are_taken(workspace):
    for name in ("Łukasz", "李小龙", "<img src=x onerror=alert(1)>", "O'Brien; DROP TABLE accounts"):
        assert team.new_account(workspace, name, "labeler", "ada").name == name


def test_an_unknown_role_or_account_is_named(staff):
    with pytest.raises(UserError, match='did you mean "labeler"'):
        team.new_account(staff, "x", "labler", "ada")
    with pytest.raises(NotFound, match='did you mean "lea"'):
        team.set_role(staff, "leo", "viewer", "ada")


def test_the_last_admin_stays(staff):
    for leave in (lambda: team.set_role(staff, "ada", "viewer", "ada"),
                  lambda: team.set_active(staff, "ada", False, "ada")):
        with pytest.raises(UserError, match="last admin"):
            leave()
    team.set_role(staff, "max", "admin", "ada")
    team.set_role(staff, "ada", "viewer", "ada")
    with pytest.raises(UserError, match="last admin"):
        team.set_active(staff, "max", False, "max")


def test_two_admins_who_leave_at_once_leave_one(staff):
    team.set_role(staff, "max", "admin", "ada")
    start = threading.Barrier(2)

    def leave(name):
        start.wait()
        try:
            team.set_role(staff, name, "viewer", name)
            return 1
        except UserError:
            return 0

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(leave, ["ada", "max"])) == 1
    assert [a.role for a in team.accounts(staff)].count("admin") == 1


# ---- sessions

def test_a_session_is_known_by_its_secret_until_it_expires(staff, later):
    secret = team.start_session(staff, "lea")
    assert len(secret) == 43 and team.session(staff, secret).name == "lea"
    assert team.session(staff, secret[:-1]) is None and team.session(staff, "") is None
    (stored,), = column(staff, tables.sessions.c.digest)
    assert secret not in stored and team.session(staff, stored) is None  # what is stored lets nobody in
    later(days=29)
    assert team.session(staff, secret)
    later(days=31)
    assert team.session(staff, secret) is None and team.sessions(staff, "lea") == 0
    team.start_session(staff, "ada")
    assert len(column(staff, tables.sessions.c.account)) == 1  # the old one was swept away


@pytest.mark.parametrize("end", [
    lambda w: team.set_role(w, "lea", "reviewer", "ada"), lambda w: team.set_active(w, "lea", False, "ada"),
    lambda w: team.set_password(w, "lea", "violet tram ostrich", "lea"), lambda w: team.end_sessions(w, "lea", "lea"),
    lambda w: team.reset_password(w, "lea", "ada")])
def test_what_ends_sessions_and_links_on_their_way(staff, end):
    secrets, others = [team.start_session(staff, "lea") for _ in range(2)], team.start_session(staff, "ada")
    link = team.link(staff, "lea", "ada")
    end(staff)
    assert [team.session(staff, s) for s in secrets] == [None, None] and team.session(staff, others)
    with pytest.raises(NotFound):
        team.enter(staff, link)


def test_changing_a_password_keeps_this_browser(staff):
    here, there = team.start_session(staff, "lea"), team.start_session(staff, "lea")
    team.set_password(staff, "lea", "violet tram ostrich", "lea", keep=here)
    assert team.session(staff, here) and not team.session(staff, there)
    assert team.sign_in(staff, "lea", "violet tram ostrich") and not team.sign_in(staff, "lea", GOOD)


def test_signing_out_here_leaves_other_browsers(staff):
    here, there = team.start_session(staff, "lea"), team.start_session(staff, "lea")
    team.end_session(staff, here)
    assert not team.session(staff, here) and team.session(staff, there)


def test_who_is_switched_off_or_a_program_does_not_sign_in(staff):
    team.set_active(staff, "lea", False, "ada")
    team.new_account(staff, "bot", "api", "ada")
    for name in ("lea", "bot"):
        for way in (team.start_session, lambda w, n: team.link(w, n, "ada"),
                    lambda w, n: team.reset_password(w, n, "ada")):
            with pytest.raises(UserError):
                way(staff, name)
    with pytest.raises(UserError, match="keys"):
        team.set_password(staff, "bot", GOOD, "ada")


# ---- invitations and links

def test_an_invitation_makes_one_account(staff):
    secret = team.invite(staff, "reviewer", "max")
    asked, = team.invitations(staff)
    assert (asked.role, asked.by, asked.name) == ("reviewer", "max", "") and secret not in asked.digest
    with pytest.raises(UserError, match="too short"):
        team.accept(staff, secret, "ann", "short")
    with pytest.raises(UserError, match="taken"):
        team.accept(staff, secret, "lea", GOOD)
    made = team.accept(staff, secret, " ann ", GOOD)
    assert (made.name, made.role) == ("ann", "reviewer") and team.sign_in(staff, "ann", GOOD)
    with pytest.raises(NotFound, match="used"):
        team.accept(staff, secret, "bob", GOOD)
    assert team.invitations(staff) == []


def test_an_invitation_is_used_once_however_many_try(staff):
    secret, start = team.invite(staff, "labeler", "ada"), threading.Barrier(4)

    def join(name):
        start.wait()
        try:
            return bool(team.accept(staff, secret, name, GOOD))
        except UserError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(join, ["p1", "p2", "p3", "p4"])) == 1
    assert len(team.accounts(staff)) == 4


def test_an_invitation_expires_and_can_be_withdrawn(staff, later):
    first, second = team.invite(staff, "labeler", "ada"), team.invite(staff, "labeler", "ada")
    team.withdraw(staff, team.invitation(staff, first).digest, "ada")
    assert team.invitation(staff, first) is None and team.invitation(staff, second)
    with pytest.raises(NotFound):
        team.withdraw(staff, "0" * 64, "ada")
    later(days=8)
    with pytest.raises(NotFound):
        team.accept(staff, second, "ann", GOOD)


def test_nobody_takes_over_judgements_but_who_is_invited_under_their_name(staff):
    judge(staff, "old friend")
    open_one, named = team.invite(staff, "labeler", "ada"), team.invite(staff, "labeler", "ada", "old friend")
    with pytest.raises(UserError, match="already judged"):
        team.accept(staff, open_one, "old friend", GOOD)
    assert team.accept(staff, named, "somebody else", GOOD).name == "old friend"  # the name is the invitation's
    assert team.accept(staff, open_one, "new friend", GOOD)  # the failed try did not use it up
    with pytest.raises(UserError, match="account already"):
        team.invite(staff, "labeler", "ada", "lea")
    with pytest.raises(UserError, match="keys create"):
        team.invite(staff, "api", "ada")


def test_a_link_lets_in_once_for_ten_minutes(staff, later):
    first, second = team.link(staff, "lea", "ada"), team.link(staff, "lea", "ada")
    assert team.link_for(staff, first).name == "lea"
    assert team.session(staff, team.enter(staff, first)).name == "lea"
    assert team.link_for(staff, first) is None
    for used in (first, "", "x" * 43, team.invite(staff, "labeler", "ada")):
        with pytest.raises(NotFound):
            team.enter(staff, used)
    later(minutes=11)
    with pytest.raises(NotFound):
        team.enter(staff, second)
    with pytest.raises(NotFound):
        team.accept(staff, second, "ann", GOOD)  # a link is no invitation


def test_a_reset_takes_the_password_and_brings_the_person_back(staff):
    secret = team.reset_password(staff, "lea", "ada")
    assert team.sign_in(staff, "lea", GOOD) is None and not team.account(staff, "lea").password
    assert team.session(staff, team.enter(staff, secret)).name == "lea"


def test_who_may_grant_what():
    table = {giver: [r for r in team.ROLES if team.may_grant(giver, r)] for giver in team.ROLES}
    assert table == {"admin": ["admin", "manager", "reviewer", "labeler", "viewer", "api"],
                     "manager": ["reviewer", "labeler", "viewer"], "reviewer": [], "labeler": [], "viewer": [],
                     "api": []}


# ---- keys

def test_a_key_is_shown_once_and_known_by_its_secret(staff, later):
    key, secret = keys.create_key(staff, "ada", "export", ["data", "read"], "ada", days=30)
    assert secret.startswith("sk-") and len(secret) == 46 and key.hint == f"sk-...{secret[-4:]}"
    assert key.scopes == ("read", "data")
    who, found = keys.key(staff, secret)
    assert (who.name, found) == ("ada", key)
    assert keys.key(staff, secret[:-1]) is None and keys.key(staff, "") is None and keys.key(staff, key.hint) is None
    (stored,), = column(staff, tables.api_keys.c.digest)
    assert stored not in secret and keys.key(staff, stored) is None
    assert secret[3:] not in str(column(staff, tables.audit))
    later(days=31)
    assert keys.key(staff, secret) is None and not keys.keys(staff)[0].works


def test_a_revoked_key_stops_and_its_trace_stays(staff):
    assert not keys.any_key(staff)
    key, secret = keys.create_key(staff, "lea", "tool", ["rank"], "lea")
    with pytest.raises(NotFound):
        keys.revoke_key(staff, key.id, "max", account="max")  # somebody else's
    keys.revoke_key(staff, key.id, "lea", account="lea")
    assert keys.key(staff, secret) is None and keys.keys(staff, "lea")[0].revoked and keys.any_key(staff)
    with pytest.raises(NotFound):
        keys.revoke_key(staff, key.id, "lea")


def test_a_key_never_has_more_than_its_account_may(staff):
    for scope in ("manage", "chat", "data", "read"):
        with pytest.raises(UserError, match="labeler"):
            keys.create_key(staff, "lea", "tool", [scope], "lea")
    _, secret = keys.create_key(staff, "max", "tool", ["manage", "rank", "chat"], "max")
    team.set_role(staff, "max", "labeler", "ada")
    assert keys.key(staff, secret)[1].scopes == ("rank",)
    team.set_active(staff, "max", False, "ada")
    assert keys.key(staff, secret) is None


@pytest.mark.parametrize("name, scopes, says", [
    ("", ["rank"], "name"), ("x" * 65, ["rank"], "name"), ("x", [], "scope"), ("x", ["rnk"], 'did you mean "rank"')])
def test_a_bad_key_is_refused(staff, name, scopes, says):
    with pytest.raises(UserError, match=says):
        keys.create_key(staff, "ada", name, scopes, "ada")
    assert keys.keys(staff) == []


@pytest.mark.parametrize("days", [-1, 1e9, float("nan"), float("inf")])
def test_a_key_lasts_a_time_that_can_be(staff, days):
    with pytest.raises(UserError, match="a key lasts up to 36525 days"):
        keys.create_key(staff, "ada", "tool", ["rank"], "ada", days=days)
    assert keys.keys(staff) == []


# ---- quarantine

def test_a_quarantine_is_reversible_and_leaves_its_story(staff):
    judge(staff, "import")
    for name in ("lea", "import"):
        team.quarantine(staff, name, "answers in two seconds", "max")
    assert team.quarantined(staff) == {"lea", "import"}
    with pytest.raises(UserError, match="already"):
        team.quarantine(staff, "lea", "again", "max")
    team.lift(staff, "lea", "talked to her", "ada")
    assert team.quarantined(staff) == {"import"}
    with pytest.raises(NotFound):
        team.lift(staff, "lea", "", "ada")
    team.quarantine(staff, "lea", "once more", "max")
    story = team.quarantines(staff, "lea")
    assert [(q.reason, q.by, q.lifted_by) for q in story] == [("once more", "max", ""),
                                                             ("answers in two seconds", "max", "ada")]
    with pytest.raises(NotFound, match='did you mean "import"'):
        team.quarantine(staff, "imprt", "typo", "max")
    with pytest.raises(UserError, match="reason"):
        team.quarantine(staff, "max", "  ", "ada")


# ---- the log

def test_every_change_is_logged_with_who_did_it(staff):
    team.set_role(staff, "lea", "reviewer", "ada")
    team.set_role(staff, "lea", "reviewer", "ada")  # no change, no entry
    secret = team.invite(staff, "labeler", "max")
    team.accept(staff, secret, "ann", GOOD)
    team.enter(staff, team.link(staff, "ann", team.SHELL))
    team.set_password(staff, "ann", "violet tram ostrich", "ann")
    key, _ = keys.create_key(staff, "ada", "k", ["read"], "ada")
    keys.revoke_key(staff, key.id, "ada")
    team.quarantine(staff, "ann", "why", "max")
    team.lift(staff, "ann", "because", "max")
    team.set_active(staff, "ann", False, "ada")
    audit.audit(staff, "ada", "project", "desk", {"overlap": 3})
    assert actions(staff) == ["account"] * 3 + ["role", "invite", "join", "link", "sign-in", "password", "key",
                                               "revoke", "quarantine", "lift", "deactivate", "project"]
    newest = audit.entries(staff, limit=1)[0]
    assert (newest.actor, newest.object, newest.detail) == ("ada", "desk", {"overlap": 3})
    assert [e.seq for e in audit.entries(staff, limit=2, before=newest.seq)] == [newest.seq - 1, newest.seq - 2]
    count, head = audit.verify_audit(staff)
    assert (count, head) == (15, newest.digest)
    assert GOOD not in str(column(staff, tables.audit)) and secret not in str(column(staff, tables.audit))


def test_what_fails_is_not_logged(staff):
    before = actions(staff)
    with pytest.raises(UserError):
        team.set_role(staff, "ada", "viewer", "ada")
    with pytest.raises(UserError):
        team.new_account(staff, "lea", "labeler", "ada")
    assert actions(staff) == before


@pytest.mark.parametrize("harm", ["UPDATE audit SET actor = 'lea' WHERE seq = 2", "DELETE FROM audit WHERE seq = 2",
                                  "UPDATE audit SET digest = (SELECT digest FROM audit WHERE seq = 1) WHERE seq = 3",
                                  "INSERT INTO audit SELECT 9, at, actor, action, object, detail, digest FROM audit "
                                  "WHERE seq = 3"])
def test_the_log_refuses_changes_and_shows_those_made_by_force(staff, harm):
    engine = sa.create_engine(staff.database.url)
    if not harm.startswith("INSERT"):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as c:
            c.exec_driver_sql(harm)
    with engine.begin() as c:
        for unlock in (["DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"]
                       if engine.dialect.name == "sqlite" else ["ALTER TABLE audit DISABLE TRIGGER ALL"]):
            c.exec_driver_sql(unlock)
        c.exec_driver_sql(harm)
    engine.dispose()
    with pytest.raises(StorageError, match="altered at entry"):
        audit.verify_audit(staff)


def test_many_hands_write_one_chain(staff):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: audit.audit(staff, f"p{i % 8}", "touch", str(i)), range(200)))
    assert audit.verify_audit(staff)[0] == 203
