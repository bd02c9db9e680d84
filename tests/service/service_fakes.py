"""An engine that writes words without a model, answer groups, and a real server in a thread."""

import contextlib
import threading
import time
from urllib.parse import urlsplit

from tunesmith.contracts import Sampling, Token, Written
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


class FakeJob:
    def __init__(self, sampling, n, model, live, detail):
        self.sampling, self.model, self.live, self.detail, self.words = sampling, model, live, detail, 0
        self.left = set(range(n))


class FakeEngine:
    """Writes WORDS, cut at `max_tokens` and at the first stop string; a word is a token, a step writes one of every
    answer. Notes what it was asked."""

    context = 64
    vocabulary = 1000

    def __init__(self):
        self.loaded, self.dropped, self.calls, self.threads, self.jobs = [], [], [], set(), []
        self.endless = self.fail_after = None  # number of words after which a stream raises
        self.written = 0
        self.stopped = threading.Event()

    @property
    def busy(self):
        return bool(self.jobs)

    @property
    def writing(self):
        return len(self.jobs)

    def load(self, name, folder):
        assert (folder / "adapter_config.json").exists()
        self.loaded.append(name)

    def drop(self, name):
        self.dropped.append(name)

    def encode(self, prompt):
        self.threads.add(threading.current_thread().name)
        self.asked = prompt
        words = prompt.split() if isinstance(prompt, str) else [w for m in prompt for w in m.content.split()]
        return [7] * len(words)

    def text(self, tokens):
        return " ".join(map(str, tokens))

    def score(self, folder, prompt, answers):
        return [float(len(a)) for a in answers]

    def prompt(self, tokens, model="", alternatives=0):
        top = tuple(Token(f"w{i}", b"w", -1.0 - i) for i in range(alternatives))
        return [Token(f"t{t} ", f"t{t} ".encode(), -2.0 if i else None, top if i else ()) for i, t in enumerate(tokens)]

    def answer(self, sampling: Sampling, model: str) -> Answer:
        tokens = tuple(range(min(len(WORDS), sampling.max_tokens)))
        text = "".join(WORDS[t] for t in tokens)
        cuts = [text.index(s) for s in sampling.stop if s in text]
        finished = bool(cuts) or len(tokens) == len(WORDS)
        return Answer(text[:min(cuts)] if cuts else text, model, tokens, tuple(-0.5 - t for t in tokens), finished)

    def submit(self, tokens, sampling, n=1, model="", *, live=False, detail=False):
        self.calls.append((self.asked if isinstance(tokens, list) else tokens, sampling, n, model))
        self.jobs.append(FakeJob(sampling, n, model, live, detail))
        return self.jobs[-1]

    def cancel(self, job):
        if job in self.jobs:
            self.jobs.remove(job)
            self.stopped.set()

    def step(self):
        news = []
        for job in list(self.jobs):
            for index in sorted(job.left):
                if (item := self._next(job, index)) is not None:
                    news.append((job, item))
                if isinstance(item, Exception):
                    self.jobs.remove(job)
                    break
                if item is not None and item.answer is not None:
                    job.left.remove(index)
            if not job.left and job in self.jobs:
                self.jobs.remove(job)
            job.words += 1
        return news

    def _next(self, job, index):
        if self.endless:
            time.sleep(0.01)
            self.written += 1
            return Written(index, "and on ") if job.live else None
        if job.words == self.fail_after:
            return RuntimeError("the machine is on fire")
        answer = self.answer(job.sampling, job.model)
        words = [w if i == 0 else f" {w}" for i, w in enumerate(answer.text.split(" "))]
        last = job.words >= len(words) - 1
        if not job.live:
            words, last = [answer.text], True
        i = min(job.words, len(words) - 1)
        tokens = range(len(answer.tokens) if last else i + 1)[0 if not job.live else i:]
        found = tuple(self._token(answer, t, job.sampling.alternatives) for t in tokens) if job.detail else ()
        return Written(index, words[i], found, answer if last else None)

    def _token(self, answer, t, alternatives):
        word = WORDS[answer.tokens[t]]
        top = tuple(Token(w, w.encode(), -0.5 - i) for i, w in enumerate(WORDS[:alternatives]))
        return Token(word, word.encode(), answer.logprobs[t], top)


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
