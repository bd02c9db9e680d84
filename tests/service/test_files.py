"""Files and uploads through OpenAI's client, requests sent twice, scopes, quotas and rates."""

import hashlib
import io
import json
import threading
import time

import httpx2
import openai
import pytest
import sqlalchemy as sa
from service_fakes import FakeEngine, account, running
from shop_floor import checked, said, send

from tunesmith.service import create_app
from tunesmith.service.quotas import Quotas, Rates
from tunesmith.service.refusals import Refusal
from tunesmith.store import blobs, jobs, keys
from tunesmith.store import tables as db

ROWS = json.dumps(said(1)).encode()


@pytest.fixture
def serve(workspace):
    """`serve(**options)`: a client of a server that nobody works beside."""
    import contextlib

    with contextlib.ExitStack() as stack:
        def make(key="unused", **options):
            url = stack.enter_context(running(create_app(workspace, FakeEngine, base="tiny", **options)))
            return client(url, key)

        yield make


def client(url, key="unused", **options):
    return openai.OpenAI(base_url=f"{url}/v1" if "/v1" not in str(url) else url, api_key=key,
                         **{"max_retries": 0, **options},
                         http_client=httpx2.Client(event_hooks={"response": [checked]}, timeout=30))


@pytest.fixture
def api(serve):
    return serve()


def refused(call, *args, **known):
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **known)
    error = caught.value
    return error.status_code, error.param, error.code, error.message


def names(workspace):
    return {p.name for p in (workspace.root / blobs.FOLDER).glob("*")}


def test_a_file_comes_back_as_it_was_sent(api, workspace):
    content = "ä\n".encode() + bytes(range(256))
    file = api.files.create(file=("../../etc/pass\u202ewd.jsonl", content), purpose="user_data")
    assert (file.bytes, file.purpose, file.status, file.expires_at) == (len(content), "user_data", "processed", None)
    assert file.filename == "passwd.jsonl"  # no path, nothing that turns text around
    reply = api.files.content(file.id)
    assert reply.content == content
    assert reply.response.headers["content-disposition"].startswith("attachment") and (
        "sandbox" in reply.response.headers["content-security-policy"])
    assert api.files.retrieve(file.id) == file and names(workspace) == {f"{file.id}.jsonl"}
    deleted = api.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True) and names(workspace) == set()
    assert refused(api.files.content, file.id)[:2] == (404, "id")
    assert list(api.files.list()) == []


def test_files_come_in_pages_by_purpose_and_order(api):
    ids = [api.files.create(file=(f"{n}.jsonl", ROWS), purpose="batch" if n % 2 else "fine-tune").id for n in range(5)]
    assert [f.id for f in api.files.list(limit=2)] == ids[::-1]
    assert [f.id for f in api.files.list(limit=2, order="asc")] == ids
    assert [f.id for f in api.files.list(purpose="batch")] == [ids[3], ids[1]]
    page = api.files.list(limit=2, after=ids[4])
    assert [f.id for f in page.data] == [ids[3], ids[2]] and page.has_more
    assert refused(api.files.list, after="file-none")[:2] == (404, "after")
    for bad in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}):
        assert refused(api.get, "/files", options={"params": bad}, cast_to=object)[:2] == (400, next(iter(bad)))


@pytest.mark.parametrize("more, param", [
    ({"purpose": "fun"}, "purpose"), ({"purpose": "fine-tune-results"}, "purpose"),
    ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after[seconds]"),
    ({"expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "expires_after[seconds]"),
    ({"expires_after": {"anchor": "later", "seconds": 3600}}, "expires_after[anchor]"),
    ({"extra_body": {"surprise": "x"}}, "surprise"), ({"file": ("empty.jsonl", b"")}, "file")], ids=str)
def test_what_a_file_may_not_be(api, more, param, workspace):
    known = {"file": ("a.jsonl", ROWS), "purpose": "fine-tune", **more}
    assert refused(api.files.create, **known)[:2] == (400, param)
    assert names(workspace) == set()


def test_forms_that_are_none(api):
    url = f"{api.base_url}files"
    for status, kind, body in ((400, "multipart/form-data", b"x"), (415, "text/plain", b"x"), (415, "", b"x"),
                               (400, "multipart/form-data; boundary=b", b"--b\r\nbroken"),
                               (415, "application/json", b"{}"),
                               (400, "multipart/form-data; boundary=b", form("purpose", "fine-tune")),
                               (400, "multipart/form-data; boundary=b", form("file", "no file"))):
        reply = httpx2.post(url, content=body, headers={"content-type": kind})
        assert reply.status_code == status, (kind, body, reply.text)
        checked_error(reply)


def form(name, text):
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n--b--\r\n'.encode()


def checked_error(reply):
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"} and reply.headers["x-request-id"]


def test_a_file_is_no_larger_than_its_purpose_allows(api, workspace, monkeypatch):
    monkeypatch.setitem(blobs.LARGEST, "batch", 100)
    status, param, _, message = refused(api.files.create, file=("b.jsonl", b"x" * 101), purpose="batch")
    assert (status, param) == (400, "file") and "100 bytes" in message and names(workspace) == set()
    assert api.files.create(file=("b.jsonl", b"x" * 100), purpose="batch").expires_at  # 30 days, as at OpenAI


def test_files_expire_and_leftovers_are_swept(api, workspace):
    file = api.files.create(file=("a.jsonl", ROWS), purpose="fine-tune",
                            expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    kept = send(api, [said(1)])
    expire(workspace, db.files, file.id)
    assert refused(api.files.retrieve, file.id)[0] == 404
    (workspace.root / blobs.FOLDER / "file-orphan.jsonl").write_bytes(b"a crash left it")
    (workspace.root / blobs.FOLDER / ".tmp-half").write_bytes(b"and this")
    blobs.sweep(workspace)
    assert names(workspace) == {f"{kept.id}.jsonl", "file-orphan.jsonl", ".tmp-half"}  # young ones may be at work
    blobs.sweep(workspace, older_than=-1)
    assert names(workspace) == {f"{kept.id}.jsonl"}


def expire(workspace, table, id):
    workspace.database.write(lambda c: c.execute(
        sa.update(table).where(table.c.id == id).values(expires="2026-01-01T00:00:00.000000Z")))


# ---- uploads

def test_an_upload_in_parts_becomes_a_file(api, workspace):
    data = ROWS + b"\n" + json.dumps(said(2)).encode()
    upload = api.uploads.create(filename="big.jsonl", purpose="fine-tune", bytes=len(data), mime_type="text/jsonl")
    assert upload.status == "pending" and upload.expires_at == upload.created_at + 3600 and upload.file is None
    first, second = (api.uploads.parts.create(upload.id, data=io.BytesIO(p)) for p in (data[:20], data[20:]))
    stray = api.uploads.parts.create(upload.id, data=b"never used")
    assert refused(api.uploads.complete, upload.id, part_ids=[first.id])[0] == 400  # too few bytes
    assert refused(api.uploads.complete, upload.id, part_ids=[first.id, "part_x"])[0] == 400
    assert refused(api.uploads.complete, upload.id, part_ids=[first.id, second.id], md5="0" * 32)[0] == 400
    done = api.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(data).hexdigest())
    assert done.status == "completed" and done.file.bytes == len(data) and stray.upload_id == upload.id
    assert api.files.content(done.file.id).content == data
    again = api.uploads.complete(upload.id, part_ids=[first.id, second.id])
    assert again.file == done.file and len(list(api.files.list())) == 1
    assert refused(api.uploads.parts.create, upload.id, data=b"late")[0] == 400
    assert names(workspace) == {f"{done.file.id}.jsonl"}


def test_the_client_uploads_a_large_file_by_itself(api, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join(json.dumps(said(n)).encode() for n in range(50)))
    done = api.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=1000)
    assert api.files.content(done.file.id).content == path.read_bytes() and done.file.filename == "train.jsonl"


def test_uploads_are_cancelled_and_expire(api, workspace):
    asked = dict(filename="a.jsonl", purpose="fine-tune", bytes=3, mime_type="text/jsonl")
    upload = api.uploads.create(**asked)
    api.uploads.parts.create(upload.id, data=b"abc")
    assert api.uploads.cancel(upload.id).status == "cancelled" and names(workspace) == set()
    assert api.uploads.cancel(upload.id).status == "cancelled"
    late = api.uploads.create(**asked)
    part = api.uploads.parts.create(late.id, data=b"abc")
    expire(workspace, db.uploads, late.id)
    assert refused(api.uploads.complete, late.id, part_ids=[part.id])[3].endswith("is expired; start a new one")
    blobs.sweep(workspace)
    assert names(workspace) == set() and blobs.upload(workspace, late.id).status == "expired"
    assert refused(api.uploads.create, **{**asked, "bytes": 8 * 2**30 + 1})[0] == 400
    assert refused(api.uploads.cancel, "upload_none")[:2] == (404, "upload_id")


# ---- the same request twice

def job(api, file, **more):
    return api.fine_tuning.jobs.create(model="tiny", training_file=file, **more)


def test_a_request_that_is_sent_again_makes_nothing_new(api, workspace):
    file = send(api, [said(1)])
    again = {"extra_headers": {"x-stainless-retry-count": "1"}}
    assert send(api, [said(1)], **again).id == file.id  # its boundary is another, its content the same
    assert send(api, [said(2)], **again).id != file.id
    first = job(api, file.id, seed=1)
    assert job(api, file.id, seed=1, **again).id == first.id
    assert job(api, file.id, seed=2, **again).id != first.id
    assert job(api, file.id, seed=1).id != first.id  # nobody said that it was the same
    workspace.database.write(lambda c: c.execute(sa.update(db.once).values(created="2026-01-01T00:00:00.000000Z")))
    assert job(api, file.id, seed=1, **again).id != first.id  # ten minutes have passed


def test_an_idempotency_key_names_a_request(api):
    file = send(api, [said(1)])
    key = {"extra_headers": {"Idempotency-Key": "k1"}}
    first = job(api, file.id, seed=1, **key)
    assert job(api, file.id, seed=1, **key).id == first.id
    status, _, _, message = refused(job, api, file.id, seed=2, **key)
    assert status == 400 and "another request" in message
    assert job(api, file.id, seed=1, extra_headers={"Idempotency-Key": "k2"}).id != first.id


def test_retries_at_once_make_one_job(api):
    file = send(api, [said(1)])
    made, barrier = [], threading.Barrier(8)

    def ask():
        barrier.wait()
        made.append(job(api, file.id, seed=1, extra_headers={"x-stainless-retry-count": "1"}).id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1 and len(list(api.fine_tuning.jobs.list())) == 1


# ---- who may

def key(workspace, *scopes, name="tool"):
    account(workspace, name, "api")
    return keys.create_key(workspace, name, "test", list(scopes), "me")[1]


def test_keys_need_the_scope(serve, workspace):
    secrets = {s: key(workspace, s, name=f"{s}-tool") for s in ("files", "fine_tuning", "chat")}
    url = serve().base_url
    files, tuning, chat = (client(str(url), secrets[s]) for s in ("files", "fine_tuning", "chat"))
    file = send(files, [said(1)])
    made = job(tuning, file.id)
    for call, scope in ((lambda: send(tuning, [said(1)]), "files"), (lambda: chat.files.list(), "files"),
                        (lambda: job(files, file.id), "fine_tuning"),
                        (lambda: chat.fine_tuning.jobs.cancel(made.id), "fine_tuning"),
                        (lambda: chat.models.delete("tiny"), "fine_tuning"), (lambda: files.models.list(), "chat"),
                        (lambda: files.uploads.cancel("x") and None, "")):
        if scope:
            status, _, code, message = refused(call)
            assert (status, code) == (403, "insufficient_permissions") and f'"{scope}"' in message
    assert refused(client(str(url), "sk-wrong").files.list)[:3] == (401, None, "invalid_api_key")
    assert jobs.find(workspace, made.id).account == "fine_tuning-tool"


def test_quotas_are_per_key(serve, workspace):
    one, other = key(workspace, "files", "fine_tuning", name="one"), key(workspace, "files", name="other")
    first = serve(one, quotas=Quotas(storage_bytes=150, unfinished_jobs=2))
    file = send(first, [said(1)])
    assert file.bytes < 150 < 2 * file.bytes
    status, _, code, message = refused(send, first, [said(2)])
    assert (status, code) == (429, "insufficient_quota") and "150" in message
    assert refused(first.uploads.create, filename="a", purpose="fine-tune", bytes=100, mime_type="x")[0] == 429
    assert send(client(str(first.base_url), other), [said(2)]).id
    job(first, file.id)
    held = job(first, file.id)
    assert refused(job, first, file.id)[:3] == (429, None, "insufficient_quota")
    first.fine_tuning.jobs.cancel(held.id)
    assert job(first, file.id).id
    first.files.delete(file.id)
    assert send(first, [said(2)]).id


def test_rates_are_told_and_kept(serve, workspace):
    secret, other = key(workspace, "files"), key(workspace, "files", name="other")
    api = serve(secret, quotas=Quotas(requests_per_minute=3))
    left = [api.files.with_raw_response.list().headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as caught:
        api.files.list()
    headers = caught.value.response.headers
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 15 <= int(headers["retry-after"]) <= 20 and int(headers["retry-after-ms"]) <= 20_000
    assert headers["x-ratelimit-limit-requests"] == "3" and headers["x-request-id"]
    client(str(api.base_url), other).files.list()


def test_a_bucket_fills_evenly():
    clock = [0.0]
    rates = Rates(60, lambda: clock[0])
    assert [rates.take("k")["x-ratelimit-remaining-requests"] for _ in range(60)] == [str(n) for n in range(59, -1, -1)]
    with pytest.raises(Refusal, match=r"again in 1\.0s"):
        rates.take("k")
    clock[0] = 2.0
    assert [rates.take("k")["x-ratelimit-remaining-requests"] for _ in range(2)] == ["1", "0"]
    with pytest.raises(Refusal):
        rates.take("k")
    assert Rates(0).take("k") == {}


def test_a_foreign_page_sends_no_file(api):
    for origin in ("http://evil.example", "null"):
        reply = httpx2.post(f"{api.base_url}files", files={"file": ("a.jsonl", ROWS)}, data={"purpose": "fine-tune"},
                            headers={"origin": origin})
        assert reply.status_code == 403
    assert list(api.files.list()) == []


def test_the_clock_of_the_store_is_unix_time(api):
    assert abs(send(api, [said(1)]).created_at - time.time()) < 5
