"""Webhooks: what OpenAI's client accepts, what is tried again, and where nothing is ever sent."""

import base64
import json
import threading
import time

import openai
import pytest
import sqlalchemy as sa
from endpoint_fake import endpoint

from tunesmith.cli import main
from tunesmith.errors import SettingsError, UserError
from tunesmith.service import create_app, webhooks
from tunesmith.service.outbound import LISTED, EndpointError, Policy
from tunesmith.service.webhooks import Courier, secret_of
from tunesmith.store import deliveries, jobs
from tunesmith.store import tables as db

SECRET = b"0123456789abcdef0123456789abcdef"
WHSEC = f"whsec_{base64.b64encode(SECRET).decode()}"
BODY = {"model": "tiny", "training_file": "file-1", "method": {"type": "supervised"}}
CLIENT = openai.OpenAI(api_key="unused", webhook_secret=WHSEC)


@pytest.fixture
def server(monkeypatch):
    with endpoint() as server:
        monkeypatch.setenv(LISTED, f"127.0.0.1:{server.port}")
        server.say = lambda handler: handler.send(b"thanks", 202)
        yield server


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.port}/hooks/ml"


def ended(workspace, status="succeeded"):
    """A job that has ended so."""
    job = jobs.create(workspace, BODY, "me")
    if status == "cancelled":
        return jobs.cancel(workspace, job.id)
    held = jobs.claim(workspace, job.id, "w")
    assert jobs.move(workspace, job.id, held.token, "validating_files", status, "over")
    return jobs.find(workspace, job.id)


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def rows(workspace):
    d = db.deliveries.c
    with workspace.database.read() as c:
        return [tuple(r) for r in c.execute(sa.select(d.state, d.tries, d.said))]


def make_due(workspace):
    workspace.database.write(lambda c: c.execute(sa.update(db.deliveries).values(next="")))


def unwrapped(request):
    """The event in a request, checked by OpenAI's client."""
    _, headers, body = request
    return CLIENT.webhooks.unwrap(json.dumps(body, separators=(",", ":")), headers)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_openais_client_accepts_it(workspace, server, url, status):
    with Courier(workspace, [url], SECRET, look=0.02):
        job = ended(workspace, status)
        wait_for(lambda: server.asked)
    path, headers, body = server.asked[0]
    event = unwrapped(server.asked[0])
    assert (event.type, event.object, event.data.id) == (f"fine_tuning.job.{status}", "event", job.id)
    assert event.id.startswith("evt_") and abs(event.created_at - time.time()) < 60
    assert set(body) == {"id", "object", "created_at", "type", "data"} and path == "/hooks/ml"
    assert headers["Content-Type"] == "application/json" and "Authorization" not in headers
    with pytest.raises(openai.InvalidWebhookSignatureError):
        CLIENT.webhooks.unwrap(json.dumps({**body, "id": "evt_0"}), headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        CLIENT.webhooks.unwrap(json.dumps(body, separators=(",", ":")), headers, secret="whsec_" + "AAAA" * 10)


def test_only_what_ends_from_now_on_and_each_once(workspace, server, url):
    ended(workspace)
    with Courier(workspace, [url, url], SECRET, look=0.02):
        jobs.create(workspace, BODY, "me")  # goes on
        new = [ended(workspace).id for _ in range(3)]
        wait_for(lambda: len(server.asked) == 3)
        time.sleep(0.1)
    assert [unwrapped(r).data.id for r in server.asked] == new
    assert len({r[1]["webhook-id"] for r in server.asked}) == 3
    assert rows(workspace) == [("delivered", 1, "")] * 3


def test_what_does_not_arrive_is_tried_again_later_under_the_same_id(workspace, server, url, caplog):
    """Also after a restart: the outbox is the database."""
    server.say = lambda handler: handler.json({"error": {"message": "down"}}, 500)
    with Courier(workspace, [url], SECRET, look=0.02):
        ended(workspace)
        wait_for(lambda: rows(workspace) and rows(workspace)[0][2])
        time.sleep(0.1)
        assert len(server.asked) == 1  # not before its time
    assert "try 1" in caplog.text and "again in 5 s" in caplog.text and "500: down" in caplog.text
    server.say = lambda handler: handler.send(b"", 204)
    make_due(workspace)
    with Courier(workspace, [url], SECRET, look=0.02):
        wait_for(lambda: len(server.asked) == 2)
        wait_for(lambda: rows(workspace) == [("delivered", 2, "")])
    first, second = server.asked
    assert first[1]["webhook-id"] == second[1]["webhook-id"] and first[2] == second[2]
    assert unwrapped(second).type == "fine_tuning.job.succeeded"


def test_a_wait_that_the_other_side_asks_for_is_kept(workspace, server, url):
    server.say = lambda handler: handler.send(b"", 429, retry_after="1000")
    courier = Courier(workspace, [url], SECRET)
    deliveries.subscribe(workspace, [url])
    ended(workspace)
    delivery, = deliveries.take(workspace, url)
    assert not courier.deliver(delivery)
    with workspace.database.read() as c:
        assert c.scalar(sa.select(db.deliveries.c.next)) > deliveries.from_now(minutes=15)


def test_one_webhook_that_does_not_answer_holds_no_other_up(workspace, server, url, monkeypatch):
    go = threading.Event()
    with endpoint() as stuck:
        stuck.say = lambda handler: (go.wait(10), handler.send(b"", 200))
        monkeypatch.setenv(LISTED, f"127.0.0.1:{server.port},127.0.0.1:{stuck.port}")
        with Courier(workspace, [f"http://127.0.0.1:{stuck.port}/", url], SECRET, look=0.02):
            for _ in range(3):
                ended(workspace)
            wait_for(lambda: len(server.asked) == 3)
            assert len(stuck.asked) == 1
        go.set()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "https://169.254.169.254/latest", "https://10.1.2.3/x",
                                     "https://[::1]/", "http://example.com/hook", "https://0.0.0.0/",
                                     "https://[::ffff:127.0.0.1]/"])
def test_addresses_inside_and_unencrypted_ones_are_refused_at_the_start(workspace, address):
    with pytest.raises(EndpointError):
        Courier(workspace, [address], SECRET, Policy(frozenset(), lambda host, port: [
            "93.184.216.34" if host == "example.com" else host]))


@pytest.mark.parametrize("address", ["ftp://x.org/", "https://me:pw@x.org/", "https://x.org/?a=b", "x.org", "https://"])
def test_what_is_no_plain_address_is_refused(workspace, address):
    with pytest.raises(UserError):
        Courier(workspace, [address], SECRET)


def test_a_name_that_moves_inside_afterwards_is_not_asked(workspace):
    """Resolved anew for each request, and the address that was checked is the one that is connected to."""
    homes = iter([["93.184.216.34"], ["127.0.0.1"]])
    courier = Courier(workspace, ["https://hooks.example/x"], SECRET, Policy(frozenset(), lambda h, p: next(homes)))
    deliveries.subscribe(workspace, ["https://hooks.example/x"])
    ended(workspace)
    delivery, = deliveries.take(workspace, "https://hooks.example/x")
    assert not courier.deliver(delivery)
    assert "inside this machine or network" in rows(workspace)[0][2]


def test_a_redirect_is_not_followed(workspace, server, url):
    server.say = lambda handler: handler.send(b"", 307, location=f"http://127.0.0.1:{server.port}/other")
    deliveries.subscribe(workspace, [url])
    ended(workspace)
    delivery, = deliveries.take(workspace, url)
    assert not Courier(workspace, [url], SECRET).deliver(delivery)
    assert len(server.asked) == 1 and "redirect" in rows(workspace)[0][2]


def test_a_name_that_cannot_be_looked_up_now_does_not_stop_the_server(workspace):
    def nobody(host, port):
        raise EndpointError(f"{host} cannot be found", again=True)

    Courier(workspace, ["https://hooks.example/x"], SECRET, Policy(frozenset(), nobody))


def test_what_is_answered_does_not_matter_and_is_not_read(workspace, server, url):
    server.say = lambda handler: handler.send(b"x" * 10_000_000, 200)
    deliveries.subscribe(workspace, [url])
    ended(workspace)
    delivery, = deliveries.take(workspace, url)
    assert Courier(workspace, [url], SECRET).deliver(delivery)


@pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_abc", "whsec_%%%%", WHSEC[6:],
                                  "whsec_" + base64.b64encode(b"x" * 23).decode(),
                                  "whsec_" + base64.b64encode(b"x" * 65).decode()])
def test_a_bad_secret_is_refused_without_being_shown(text):
    with pytest.raises(SettingsError, match="MY_SECRET") as caught:
        secret_of("MY_SECRET", {"MY_SECRET": text})
    assert not text or text == "whsec_" or text == "secret" or text not in str(caught.value)


def test_a_good_secret():
    assert secret_of("S", {"S": f" {WHSEC}\n"}) == SECRET


def test_the_server_delivers_while_it_runs(workspace, server, url):
    from service_fakes import FakeEngine, running

    with running(create_app(workspace, FakeEngine, base="tiny", courier=Courier(workspace, [url], SECRET, look=0.02))):
        job = ended(workspace)
        wait_for(lambda: server.asked)
    assert unwrapped(server.asked[0]).data.id == job.id


def test_the_command_line_wants_a_secret(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(webhooks.VARIABLE, raising=False)
    code = main(["serve", "--workspace", str(tmp_path / "ws"), "--webhook", "https://example.com/x", "--port", "0"])
    assert code == 2 and "TUNESMITH_WEBHOOK_SECRET" in capsys.readouterr().err
