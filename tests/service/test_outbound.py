"""Requests to other servers: which addresses are refused, what an answer may do, and the engine on top."""

import socket
import threading
import time

import pytest
from endpoint_fake import endpoint, events, piece, reply

from tunesmith import cli
from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.records import Message, Prompt
from tunesmith.service import outbound
from tunesmith.service.outbound import EndpointError, Exchange, Policy, parse
from tunesmith.service.remote import RemoteEngine
from tunesmith.store.endpoints import Endpoint, add_endpoint, check_endpoint, endpoints, find_endpoint, remove_endpoint

ODD = [
    "", "localhost", "//host/v1", "ftp://host/v1", "file:///etc/passwd", "gopher://host/", "javascript:alert(1)",
    "https://", "https:///v1", "https:/host/v1", "https:host", "https://host\\@evil/v1", "https://evil\\.host/v1",
    "https://user@host/v1", "https://user:key@host/v1", "https://good#@evil/v1", "https://good?@evil/v1",
    "https://host/v1?key=1", "https://host/v1#x", "https://host/%2e%2e/v1", "https://ho%73t/v1", "https://host/../v1",
    "https://host/./v1", "https://host/v1\r\nX: y", "https://host\t/v1", " https://host/v1", "https://host/v1\0",
    "https://host:0/v1", "https://host:/v1", "https://host:70000/v1", "https://host:8o/v1", "https://host:-1/v1",
    "https://2130706433/v1", "https://0x7f000001/v1", "https://0x7f.1/v1", "https://0177.0.0.1/v1", "https://127.1/v1",
    "https://127.0.0.01/v1", "https://1.2.3.4.5/v1", "https://0/v1", "https://256.1.1.1/v1", "https://１２７.0.0.1/v1",
    "https://ⓛocalhost/v1", "https://host。evil/v1", "https://host.\u200b/v1", "https://host./v1", "https://.host/v1",
    "https://ho st/v1", "https://-host/v1", "https://[::1/v1", "https://[::1%25eth0]/v1", "https://[::ffff:1.2.3]/v1",
    "https://[host]/v1", "https://[::1]x/v1", "https://" + "a" * 300 + "/v1", "https://h/" + "a" * 600,
]


@pytest.mark.parametrize("url", ODD)
def test_odd_addresses_are_refused(url):
    with pytest.raises(UserError):
        parse(url)


@pytest.mark.parametrize(("url", "authority", "path"), [
    ("https://api.openai.com/v1", "api.openai.com", "/v1"),
    ("https://API.openai.com/v1/", "api.openai.com", "/v1"),
    ("http://127.0.0.1:8000/v1", "127.0.0.1:8000", "/v1"),
    ("http://[::1]:11434/v1", "[::1]:11434", "/v1"),
    ("http://[0:0::1]:80", "[::1]", ""),
    ("https://my_host-1.example:443/a/b", "my_host-1.example", "/a/b"),
])
def test_plain_addresses(url, authority, path):
    found = parse(url)
    assert (found.authority, found.path) == (authority, path)


INSIDE = ["127.0.0.1", "127.8.8.8", "10.0.0.7", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1",
          "240.0.0.1", "::1", "fc00::1", "fd12::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
          "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::"]
NEVER = ["169.254.169.254", "169.254.1.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "100.100.100.200",
         "::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe",
         "2002:a9fe:a9fe::", "168.63.129.16"]


def at(*addresses, private=frozenset()):
    return Policy(private, lambda host, port: addresses)


@pytest.mark.parametrize("address", INSIDE)
def test_private_addresses_only_if_listed(address):
    target = parse("https://models.example/v1")
    with pytest.raises(EndpointError, match=r"TUNESMITH_PRIVATE_ENDPOINTS=models\.example:443"):
        at(address).check(target)
    assert at(address, private=frozenset({"models.example:443"})).check(target) == [address]
    with pytest.raises(EndpointError):
        at(address, private=frozenset({"models.example:80"})).check(target)


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_never(address):
    for private in (frozenset({"models.example:443"}), None):
        with pytest.raises(EndpointError, match="never asked"):
            at(address, private=private).check(parse("https://models.example/v1"))


def test_one_bad_address_of_several_is_enough():
    with pytest.raises(EndpointError, match=r"10\.0\.0\.1"):
        at("93.184.216.34", "10.0.0.1").check(parse("https://models.example/v1"))
    assert at("93.184.216.34", "2606:2800::1").check(parse("https://models.example/v1"))
    with pytest.raises(EndpointError, match="write https"):
        at("93.184.216.34").check(parse("http://models.example/v1"))
    with pytest.raises(EndpointError, match="no address"):
        at().check(parse("https://models.example/v1"))


def test_the_list_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(outbound.LISTED, "localhost:11434, [::1]:8000  10.0.0.7:80")
    assert Policy().private == {"localhost:11434", "[::1]:8000", "10.0.0.7:80"}


# ---- a server that misbehaves

@pytest.fixture
def server():
    with endpoint() as server:
        yield server


def remote(server, seconds=5.0, key="", policy=None, host="localhost"):
    endpoint = Endpoint("local", f"http://{host}:{server.port}/v1", "tiny", key)
    policy = policy or Policy(frozenset({f"{host}:{server.port}"}), lambda host, port: ["127.0.0.1"])
    return RemoteEngine(endpoint, policy, seconds, pause=lambda seconds: None)


ASK = (Message("system", "Be brief."), Message("user", "Rate? \U0001f600"))


def test_answers(server, monkeypatch):
    monkeypatch.setenv("LOCAL_API_KEY", "sk-secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # proxies are not asked
    engine = remote(server, key="LOCAL_API_KEY")
    seen = []
    how = Sampling(12, 0.7, 0.9, ("\n",), seed=3, presence_penalty=2)
    found = engine.sample([ASK, ASK[1:]], how, n=2, progress=seen.append)
    assert [[a.text for a in row] for row in found] == [["7.5 percent."] * 2] * 2 and sum(seen) == 2
    assert found[0][0].model == f"localhost:{server.port}/tiny" and found[0][0].finished
    path, headers, body = next(a for a in server.asked if a[2]["seed"] == 4 and len(a[2]["messages"]) == 2)
    assert path == "/v1/chat/completions" and headers["Host"] == f"localhost:{server.port}"
    assert headers["Authorization"] == "Bearer sk-secret" and headers["Accept-Encoding"] == "identity"
    assert body == {"model": "tiny", "max_tokens": 12, "temperature": 0.7, "top_p": 0.9, "seed": 4, "stop": ["\n"],
                    "presence_penalty": 2, "messages": [{"role": "system", "content": "Be brief."},
                                 {"role": "user", "content": "Rate? \U0001f600"}]}


def test_plain_text_goes_to_completions(server):
    server.say = lambda handler: handler.json({"choices": [{"text": " is low.", "finish_reason": "length"}]})
    found, = remote(server).sample(["The rate"], Sampling(5, 0.0, stop=("\n",), seed=3))
    assert (found[0].text, found[0].finished) == (" is low.", False)
    path, _, body = server.asked[0]
    assert path == "/v1/completions" and body == {
        "model": "tiny", "prompt": "The rate", "max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "seed": 3,
        "stop": ["\n"]}


def test_the_connection_goes_where_the_check_looked(server):
    """A name that answers with another address the second time (DNS rebinding) is not asked a second time."""
    answers = iter([["127.0.0.1"]])
    policy = Policy(frozenset({f"rebind.example:{server.port}"}), lambda host, port: next(answers))
    assert remote(server, policy=policy, host="rebind.example").sample([ASK], Sampling())[0][0].text == "7.5 percent."


def test_loopback_is_refused_unless_listed(server):
    policy = Policy(frozenset(), None)
    with pytest.raises(EndpointError, match="inside this machine or network"):
        remote(server, policy=policy).sample([ASK], Sampling())
    assert server.asked == []


@pytest.mark.parametrize(("say", "message"), [
    (lambda h: h.send(b"", 302, location="http://169.254.169.254/latest/meta-data"), "redirect, which is not followed"),
    (lambda h: h.send(b"", 307, location="/elsewhere"), "redirect"),
    (lambda h: h.json({"error": {"message": "no such model, sk-secret"}}, 404), r"404: no such model, \.\.\.$"),
    (lambda h: h.send(b"<script>\x1b[31m" + b"x" * 9000, 400), r"400: <script> \[31mx{200,}$"),
    (lambda h: h.send(b"not json"), "did not answer with JSON"),
    (lambda h: h.send(b"[" * 100_000), "did not answer with JSON"),
    (lambda h: h.json({"choices": []}), "as an OpenAI-compatible server"),
    (lambda h: h.json([1]), "as an OpenAI-compatible server"),
    (lambda h: h.json(reply(None)), "without a text"),
    (lambda h: h.json({"choices": [{"message": "hi"}]}), "without a text"),
    (lambda h: h.json(reply("x" * 500_000)), "beyond all measure"),
    (lambda h: h.send(b"x", content_encoding="gzip"), "packed answer"),
    (lambda h: h.send(b" " * 2**23), "more than 4194304 bytes"),
    (lambda h: h.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"), "as HTTP does"),
    (lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n"), "as HTTP does"),
])
def test_bad_answers(server, monkeypatch, say, message):
    monkeypatch.setenv("LOCAL_API_KEY", "sk-secret")
    server.say = say
    with pytest.raises(EndpointError, match=message) as caught:
        remote(server, key="LOCAL_API_KEY").sample([ASK], Sampling())
    assert "sk-secret" not in str(caught.value) and str(caught.value).isprintable()


def test_a_slow_server_is_left(server):
    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):  # every byte comes in time, the whole never does
            handler.wfile.write(b" ")
            time.sleep(0.02)

    server.say = drip
    start = time.monotonic()
    with pytest.raises(EndpointError, match="longer than"):
        remote(server, seconds=0.2).sample([ASK], Sampling())
    assert time.monotonic() - start < 1.5


def test_again_after_a_busy_answer(server):
    def busy(handler):
        good = len(server.asked) > 2
        handler.json(reply("at last") if good else {}, 200 if good else 429, retry_after="1")

    server.say = busy
    assert remote(server).sample([ASK], Sampling())[0][0].text == "at last"
    server.say = lambda handler: handler.json({}, 401)
    asked = len(server.asked)
    with pytest.raises(EndpointError, match="401"):
        remote(server).sample([ASK], Sampling())
    assert len(server.asked) == asked + 1


def test_newer_models_want_another_name_for_the_length(server):
    def new(handler):
        said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        good = "max_completion_tokens" in server.asked[-1][2]
        handler.json(reply("fine", "length") if good else {"error": {"message": said}}, 200 if good else 400)

    server.say = new
    answer = remote(server).sample([ASK], Sampling(9))[0][0]
    assert (answer.text, answer.finished) == ("fine", False) and server.asked[-1][2]["max_completion_tokens"] == 9


def whole(generator):
    """All pieces, and the answer."""
    pieces = []
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as end:
            return pieces, end.value


def test_streaming(server):
    server.say = lambda h: h.send(events(piece(""), piece("7.5 "), piece("per€nt."), piece("", "stop"),
                                         {"choices": [], "usage": {}}, "[DONE]").encode())
    pieces, answer = whole(remote(server).stream(ASK, Sampling()))
    assert pieces == ["7.5 ", "per€nt."] and (answer.text, answer.finished) == ("7.5 per€nt.", True)
    assert server.asked[0][2]["stream"] is True
    server.say = lambda h: h.send(events(piece("half")).encode())
    assert whole(remote(server).stream(ASK, Sampling()))[1].finished is False


@pytest.mark.parametrize(("raw", "message"), [
    (events("nonsense").encode(), "not JSON"), (events({"error": {"message": "overloaded"}}).encode(), "overloaded"),
    (b"data: " + b"x" * 400_000, "without an end")])
def test_bad_streams(server, raw, message):
    server.say = lambda h: h.send(raw)
    with pytest.raises(EndpointError, match=message):
        whole(remote(server).stream(ASK, Sampling()))


def test_cancel_ends_a_stream_that_waits(server):
    go = threading.Event()

    def wait(handler):
        handler.send(events(piece("one")).encode())
        go.wait(5)

    server.say = wait
    engine = remote(server, seconds=30)
    exchange = engine.exchange()
    pieces = engine.stream(ASK, Sampling(), exchange=exchange)
    assert next(pieces) == "one"
    threading.Timer(0.1, exchange.cancel).start()
    start = time.monotonic()
    with pytest.raises(EndpointError, match="stopped"):
        next(pieces)
    assert time.monotonic() - start < 2
    go.set()


def test_https_is_checked_for_the_name():
    """Plain text behind an https address is an error, not a fallback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def greet():
            opened = listener.accept()[0]
            opened.sendall(b"HTTP/1.1 200 OK\r\n\r\n{}")
            opened.close()

        thread = threading.Thread(target=greet)
        thread.start()
        port = listener.getsockname()[1]
        policy = Policy(frozenset({f"localhost:{port}"}), lambda host, port: ["127.0.0.1"])
        with pytest.raises(EndpointError, match="cannot be reached"):
            Exchange(parse(f"https://localhost:{port}/v1"), policy, 3).post("/x", {})
        thread.join()


# ---- collecting from an endpoint

def collect(workspace, *flags):
    return cli.main(["collect", "--workspace", str(workspace.root), "--prompts", "asked", "--answers", "2", *flags])


@pytest.fixture
def asked(workspace):
    """Three prompts."""
    prompts = [Prompt((Message("user", f"Question {n}?"),)) for n in range(3)]
    return workspace.add_dataset("asked", "prompts", prompts)


def test_collect_from_an_address(server, workspace, asked, capsys):
    server.say = lambda h: h.json(reply(f"Answer {len(server.asked)}."))
    flags = ("--endpoint", f"http://127.0.0.1:{server.port}/v1", "--model", "tiny", "--name", "remote")
    assert collect(workspace, *flags) == 0, capsys.readouterr().err
    groups = workspace.groups("remote")
    assert [g.prompt.messages[0].content for g in groups] == [f"Question {n}?" for n in range(3)]
    assert {a.model for g in groups for a in g.answers} == {f"127.0.0.1:{server.port}/tiny"}
    assert len({a.text for g in groups for a in g.answers}) == 6
    assert collect(workspace, *flags) == 0 and len(server.asked) == 6  # what has answers is passed


def test_collect_from_a_known_endpoint(server, workspace, asked, monkeypatch, capsys):
    add_endpoint(workspace, Endpoint("near", f"http://localhost:{server.port}/v1", "tiny"), "me")
    assert collect(workspace, "--endpoint", "near") == 2  # an admin of the studio named it, not the shell
    assert outbound.LISTED in capsys.readouterr().err and server.asked == []
    monkeypatch.setenv(outbound.LISTED, f"localhost:{server.port}")
    assert collect(workspace, "--endpoint", "near") == 0
    assert server.asked[0][2]["model"] == "tiny" and len(workspace.groups("asked")) == 3


@pytest.mark.parametrize(("flags", "message"), [
    (("--endpoint", "nowhere"), 'no endpoint "nowhere"'), (("--endpoint", "ftp://x", "--model", "m"), "https://"),
    (("--endpoint", "https://x.example/v1"), "which model?"),
    (("--endpoint", "https://x.example/v1", "--model", "m", "--key", "NO_SUCH_API_KEY"), "holds no key"),
    (("--endpoint", "https://x.example/v1", "--model", "m", "--base", "loan-desk"), "--base is for")])
def test_collect_says_what_is_wrong(workspace, asked, capsys, flags, message):
    assert collect(workspace, *flags) == 2
    assert message in capsys.readouterr().err


# ---- endpoints that are remembered

def test_endpoints_are_remembered_without_keys(workspace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made = add_endpoint(workspace, Endpoint("openai", "https://api.openai.com/v1", "gpt-x", "OPENAI_API_KEY"), "me")
    assert endpoints(workspace) == [made] and made.by == "me"
    assert b"sk-secret" not in (workspace.root / "tunesmith.db").read_bytes()
    with pytest.raises(UserError, match="already"):
        add_endpoint(workspace, made, "me")
    with pytest.raises(UserError, match='did you mean "openai"'):
        find_endpoint(workspace, "opena")
    remove_endpoint(workspace, "openai", "me")
    assert endpoints(workspace) == []
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds no key"):
        RemoteEngine(made)


@pytest.mark.parametrize("variable", ["PATH", "AWS_SECRET_ACCESS_KEY", "TUNESMITH_DATABASE", "openai_api_key", "X Y",
                                      "_API_KEY", "A_API_KEY\n"])
def test_only_keys_of_apis_can_be_named(variable):
    with pytest.raises(UserError, match="cannot hold a key"):
        check_endpoint(Endpoint("x", "https://api.example/v1", "m", variable))
