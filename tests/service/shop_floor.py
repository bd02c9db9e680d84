"""A server with a tiny base and a worker beside it that trains in this process: a real child would import for seconds
what is imported here already. Real children are in test_worker.py and tests/chaos.
"""

import contextlib
import json
import threading
import time
from pathlib import Path

import httpx2
import openai
import openai_schema
from service_fakes import running

from tunesmith.service import create_app, trainer
from tunesmith.store import jobs
from tunesmith.store.workspace import Workspace

DONE = ("succeeded", "failed", "cancelled")


class Floor:
    """`api()` makes clients; every body they get is held against OpenAI's types."""

    def __init__(self, root: Path, **options):
        import tiny

        from tunesmith import rounds
        from tunesmith.model.engine import LocalEngine
        from tunesmith.model.serving import Serving
        from tunesmith.shop import Shop

        self.base = str(tiny.save(root / "tiny"))
        self.workspace = Workspace.open(root / "ws")
        self.shop = Shop(self.workspace, lambda _: contextlib.nullcontext(lambda *a: None))
        self.hands = trainer.Hands(lambda *step: rounds.train(self.shop, *step),
                                   lambda *what: rounds.fresh(self.shop, *what))
        self.app = create_app(self.workspace, lambda: Serving(LocalEngine(self.shop.base(self.base), 8)),
                              base=self.base, **options)
        self.working, self._stop = threading.Event(), threading.Event()
        self.working.set()

    @contextlib.contextmanager
    def open(self):
        """The server on a port, and the worker."""
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            with running(self.app) as self.url:
                yield self
        finally:
            self._stop.set()
            thread.join()
            self.workspace.close()

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            for job in jobs.waiting(self.workspace) if self.working.is_set() else []:
                if claimed := jobs.claim(self.workspace, job.id, "test", slots=1):
                    trainer.work(self.workspace, job.id, claimed.token, self.hands)

    def api(self, key: str = "unused", **options) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, **options},
                             http_client=httpx2.Client(event_hooks={"response": [checked]}, timeout=60))

    def async_api(self) -> openai.AsyncOpenAI:
        async def hook(response):
            await response.aread()
            checked(response)

        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0,
                                  http_client=httpx2.AsyncClient(event_hooks={"response": [hook]}, timeout=60))


def checked(response: httpx2.Response) -> None:
    assert response.headers["x-request-id"].startswith("req_")
    assert response.status_code not in (409, 422) and response.status_code < 500
    if "json" in response.headers.get("content-type", ""):
        response.read()
        openai_schema.check(response.request.method, response.request.url.path, response.status_code, response.json())


def finished(api: openai.OpenAI, id: str, seconds: float = 60):
    """The job when it is over."""
    return reached(api, id, DONE, seconds)


def reached(api: openai.OpenAI, id: str, states: tuple[str, ...], seconds: float = 60):
    end = time.monotonic() + seconds
    while (job := api.fine_tuning.jobs.retrieve(id)).status not in states:
        assert time.monotonic() < end, (job.status, [e.message for e in api.fine_tuning.jobs.list_events(id)])
        time.sleep(0.03)
    return job


def send(api: openai.OpenAI, rows: list, name: str = "rows.jsonl", **more):
    return api.files.create(file=(name, "\n".join(json.dumps(r) for r in rows).encode()), purpose="fine-tune", **more)


def said(n: int, answer: str = "aa", **more) -> dict:
    """A demonstration."""
    return {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{answer}{n}",
                                                                  **more}]}


def preferred(n: int) -> dict:
    """A comparison as OpenAI writes it."""
    return {"input": {"messages": [{"role": "user", "content": f"say {n}"}]},
            "preferred_output": [{"role": "assistant", "content": "aaa"}],
            "non_preferred_output": [{"role": "assistant", "content": "bbb"}]}
