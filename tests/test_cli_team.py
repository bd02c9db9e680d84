"""`keys`, `team`, and the links that `studio` and `serve` print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tunesmith import cli, doctor
from tunesmith.service import app as service
from tunesmith.store import keys, team
from tunesmith.store.workspace import Workspace


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert cli.main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main([*words]) == 2
    return capsys.readouterr().err


def test_keys_are_made_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    made = run(capsys, "keys", "create", "nightly", "--scopes", "data", "read", "--account", "export-bot", "--days",
               "9")
    assert made["scopes"] == ["read", "data"] and made["expires"]
    mine = run(capsys, "keys", "create", "laptop")
    assert mine["scopes"] == ["chat"]
    with Workspace.open("workspace") as workspace:
        who, found = keys.key(workspace, made["key"]) or pytest.fail("the key does not work")
        assert (who.name, who.role, found.name) == ("export-bot", "api", "nightly")
        assert team.account(workspace, "me").role == "admin"
    listed = run(capsys, "keys")["keys"]
    assert {(k["name"], k["account"], k["works"]) for k in listed} == {("nightly", "export-bot", "yes"),
                                                                      ("laptop", "me", "yes")}
    assert made["key"] not in str(listed)
    run(capsys, "keys", "revoke", made["id"])
    assert {k["name"]: k["works"] for k in run(capsys, "keys", "ls")["keys"]} == {"nightly": "revoked", "laptop": "yes"}
    assert cli.main(["keys", "create", "shown"]) == 0
    assert re.match(r"sk-[\w-]{43}\nIt is shown only now", capsys.readouterr().out)


def test_the_team_at_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Workspace.open("workspace") as workspace:
        team.owner(workspace, "me")
        team.new_account(workspace, "lea", "labeler", "me")
    link = run(capsys, "team", "invite", "ann", "--role", "reviewer", "--url", "https://studio.example.org/")["link"]
    assert link.startswith("https://studio.example.org/invite?key=")
    assert run(capsys, "team", "role", "lea", "--role", "viewer") == {"name": "lea", "role": "viewer", "active": True}
    assert run(capsys, "team", "deactivate", "lea")["active"] is False
    assert run(capsys, "team", "activate", "lea")["active"] is True
    once = run(capsys, "team", "link")["link"].rpartition("=")[2]
    reset = run(capsys, "team", "reset", "lea")["link"]
    assert reset.endswith("&next=/account")
    with Workspace.open("workspace") as workspace:
        assert team.session(workspace, team.enter(workspace, once)).name == "me"  # type: ignore[union-attr]
        asked, = team.invitations(workspace)
        assert (asked.name, asked.role, asked.by) == ("ann", "reviewer", "command line")
    assert [a["name"] for a in run(capsys, "team")["team"]] == ["lea", "me"]
    assert cli.main(["team", "audit"]) == 0
    told = capsys.readouterr().out
    assert "command line  deactivate  lea" in told and "unaltered" in told
    assert run(capsys, "team", "audit")["entries"] == told.count("Z  ")


@pytest.mark.parametrize("words, says", [
    (["team", "role", "nobody", "--role", "viewer"], 'no account "nobody"'), (["team", "role"], "which one?"),
    (["team", "role", "me", "--role", "bos"], 'unknown role "bos"'), (["team", "deactivate", "me"], "last admin"),
    (["team", "invte"], 'did you mean "invite"'), (["keys", "create"], "which one?"),
    (["keys", "create", "x", "--scopes", "chta"], 'did you mean "chat"'), (["keys", "revoke", "x"], 'no key "x"'),
    (["studio", "--host", "0.0.0.0"], "--allow-host"),
    (["studio", "--allow-host", "https://example.org"], "without http://"),
    (["serve", "--allow-host", "example.org:80"], "without a port"),
    (["studio", "--labeler", ""], "printable characters")])
def test_mistakes_get_one_clear_line(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    with Workspace.open("workspace") as workspace:
        team.owner(workspace, "me")
    told = fails(capsys, *words)
    assert says in told and told.count("\n") == 1


@pytest.mark.parametrize("verb", ["studio", "serve"])
def test_the_printed_link_opens_the_studio(verb: str, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A person copies the address into a browser, and is in."""
    visited = []

    def visit(self: object, sockets: list) -> None:
        import threading

        import uvicorn

        told = capsys.readouterr()
        link = next(w for w in (told.out + told.err).split() if "/enter?once=" in w)
        server = uvicorn.Server(self.config)  # type: ignore[attr-defined]
        thread = threading.Thread(target=real_run, args=(server, sockets))
        thread.start()
        with httpx.Client(follow_redirects=True, headers={"sec-fetch-site": "none"}) as browser:
            visited.append((browser.get(link), browser.get(f"{link.partition('/enter')[0]}/account"), told))
        server.should_exit = True
        thread.join()

    real_run = service.uvicorn.Server.run
    monkeypatch.setattr("uvicorn.Server.run", visit)
    assert cli.main([verb, "--port", "0", "--labeler", "ana"]) == 0
    (first, account, told), = visited
    assert first.url.path == "/" and first.status_code == 200 and "ana" in account.text and "admin" in account.text
    if verb == "serve":
        assert "open to every program on this machine until you make a key" in told.out + told.err


def test_addresses_behind_a_proxy_are_the_proxys() -> None:
    def address(host: str, hosts: list[str], https: bool = False) -> str:
        with Workspace.open("workspace") as workspace:
            _, listener, url = service.open_server(service.create_app(workspace, hosts=hosts, https=https), host, 0)
        listener.close()
        return re.sub(r":\d+$", ":N", url)

    assert address("127.0.0.1", []) == "http://127.0.0.1:N" and address("localhost", []) == "http://localhost:N"
    assert address("127.0.0.1", ["studio.example.org"], https=True) == "https://studio.example.org"
    assert address("0.0.0.0", ["studio.example.org"]) == "http://studio.example.org:N"


def test_doctor_says_whether_the_api_asks_for_a_key() -> None:
    assert not [r for r in doctor._doors(Path("workspace")) if r["check"].startswith("/v1")]
    with Workspace.open("workspace") as workspace:
        team.owner(workspace, "me")
    before = doctor._doors(Path("workspace"))[-1]
    assert "open" in before["found"] and "keys create" in before["cure"]
    with Workspace.open("workspace") as workspace:
        keys.create_key(workspace, "me", "k", ["chat"], "me")
    assert doctor._doors(Path("workspace")) == [{"check": "accounts", "found": "1", "cure": ""},
                                                {"check": "/v1 (API)", "found": "asks for a key", "cure": ""}]
