"""A PostgreSQL server for tests: started once, a fresh database for each test, nothing of it left behind."""

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tunesmith.store.database import Database

sqlite_only = pytest.mark.parametrize("workspace", ["sqlite"], indirect=True)
"""For tests of what SQLite itself does."""
PLACES = "/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"


def programs() -> Path | None:
    """The folder of pg_ctl and initdb."""
    if found := shutil.which("pg_ctl"):
        return Path(found).parent
    folders = (folder for place in PLACES for folder in Path("/").glob(place.lstrip("/")))
    return max((folder for folder in folders if (folder / "pg_ctl").exists()), default=None)


class Server:
    """A server of our own, in a folder of its own; unless `durable`, it does not wait for the disk, nor do tests."""

    def __init__(self, durable: bool = False) -> None:
        self.durable = durable
        folder = programs()
        if folder is None:
            pytest.skip("no PostgreSQL here (no pg_ctl found)")
        if os.getuid() == 0 and not _exists("postgres"):
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        self.programs, self.numbers = folder, itertools.count()
        self.home = Path(tempfile.mkdtemp(prefix="tunesmith-pg-"))
        if os.getuid() == 0:
            shutil.chown(self.home, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.run("initdb", "--pgdata", "data", "--username", "tunesmith", "--auth", "trust", "--encoding", "UTF8",
                 "--locale", "C.UTF-8", "--no-sync")
        self.start()
        self.execute("CREATE DATABASE template_of_ours")
        database = Database(self.url("template_of_ours"), self.home)
        database.migrate()
        database.close()

    def run(self, program: str, *arguments: str) -> None:
        user = dict(user="postgres", group="postgres", extra_groups=[]) if os.getuid() == 0 else {}
        done = subprocess.run([str(self.programs / program), *arguments], cwd=self.home, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **user)
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        hasty = "" if self.durable else "-c fsync=off -c full_page_writes=off "
        options = f"-p {self.port} -h 127.0.0.1 -k {self.home} {hasty}-c max_connections=150 -c shared_buffers=64MB"
        self.run("pg_ctl", "--pgdata", "data", "--log", "log", "--wait", "--options", options, "start")

    def stop(self, how: str = "fast") -> None:
        self.run("pg_ctl", "--pgdata", "data", "--mode", how, "--wait", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://tunesmith@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(statement)

    def database(self) -> str:
        """The URL of a new database with the newest schema."""
        name = f"test{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template_of_ours")
        return self.url(name)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
