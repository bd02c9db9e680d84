"""An engine that writes words without a model, answer groups, and a real server in a thread."""

import contextlib
import threading
import time
from urllib.parse import urlsplit

from tunesmith.contracts import Sampling
from tunesmith.errors import NotFound
from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.service import access, open_server
from tunesmith.store import team

WORDS = ["The ", "rate ", "is ", "7.5 ", "percent."]


def group(question, *answers, model="desk@1"):
    prompt = Prompt((Message("system", "You are the loan desk."), Message("user", question)))
    return AnswerGroup(prompt, tuple(Answer(text, model) for text in answers))


def account(workspace, name, role="admin"):
    """The account, made if it is new."""
    with contextlib.suppress(NotFound):
        return team.account(workspace, name)
    return team.new_account(workspace, name, role, "test")


def ask_as(client, workspace, name, role="admin"):
    """Sign a TestClient in; it sends Origin as a browser does."""
    account(workspace, name, role)
    client.cookies.set(f"tunesmith-{client.base_url.port or 80}", team.start_session(workspace, name, "test"))
    client.headers["origin"] = str(client.base_url).rstrip("/")
    return client


def signed(workspace, address, name="me", role="admin"):
    """An address that signs a browser in and leads on to `address`."""
    account(workspace, name, role)
    parts = urlsplit(address)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}{access.entrance(team.link(workspace, name, 'test', minutes=60), path)}"


class FakeEngine:
    """Writes WORDS, cut at `max_tokens` and at the first stop string; a word is a token. Notes what it was asked."""

    context = 64

    def __init__(self):
        self.loaded, self.calls, self.threads = [], [], set()
        self.endless = self.fail_after = None  # number of words after which a stream raises
        self.written = 0
        self.stopped = threading.Event()

    def models(self):
        return list(self.loaded)

    def load(self, name, folder):
        assert (folder / "adapter_config.json").exists()
        self.loaded.append(name)

    def count(self, messages):
        self.threads.add(threading.current_thread().name)
        return sum(len(m.content.split()) for m in messages)

    def pieces(self, tokens):
        return [WORDS[t] for t in tokens]

    def answer(self, sampling: Sampling, model: str) -> Answer:
        tokens = tuple(range(min(len(WORDS), sampling.max_tokens)))
        text = "".join(WORDS[t] for t in tokens)
        cuts = [text.index(s) for s in sampling.stop if s in text]
        finished = bool(cuts) or len(tokens) == len(WORDS)
        return Answer(text[:min(cuts)] if cuts else text, model, tokens, tuple(-0.5 - t for t in tokens), finished)

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        self.calls.append((prompts[0], sampling, n, model))
        return [[self.answer(sampling, model)] * n for _ in prompts]

    def stream(self, messages, sampling, *, model=""):
        self.calls.append((messages, sampling, 1, model))
        try:
            if self.endless:
                while True:
                    self.written += 1
                    yield "and on "
                    self.stopped.wait(0.01)
            answer = self.answer(sampling, model)
            for i, word in enumerate(answer.text.split(" ")):
                if i == self.fail_after:
                    raise RuntimeError("the machine is on fire")
                yield word if i == 0 else f" {word}"
            return answer
        finally:
            self.stopped.set()


@contextlib.contextmanager
def running(app, port=0):
    """The app on a real port, in a thread; yields its URL."""
    server, listener, url = open_server(app, "127.0.0.1", port)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
