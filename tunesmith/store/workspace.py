"""The workspace: one folder and one database that hold everything a team makes, with its lineage.

    tunesmith.db   data/NAME/   adapters/NAME/VERSION/   runs/ID/   reports/   tokens/KEY/

Teams may keep the database in PostgreSQL instead; then `database.txt` stands for tunesmith.db and says so.

Folders are published whole (see publish.py) before their database row is written. Opening a workspace gives a row to
a folder that a crash left without one, so that nothing finished is ever lost and no version number is used twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import sqlalchemy as sa

from tunesmith.errors import DataError, ModelError, NotFound, UserError, nearest
from tunesmith.records import AnswerGroup, Demonstration, Labeler, Prompt, Ranking, Record, fingerprint
from tunesmith.store import tables as db
from tunesmith.store.checks import split_version, valid_name
from tunesmith.store.database import Database, database_url, insert_once, pack, pages
from tunesmith.store.faults import storing
from tunesmith.store.lineage import code_version
from tunesmith.store.publish import Damaged, Taken, clean, publish, read_manifest, verify, write_atomically
from tunesmith.store.runs import Run, finite, from_row, now
from tunesmith.store.verdicts import check_ranking, insert_groups, insert_rankings, set_seq

Kind = Literal["demonstrations", "prompts", "comparisons", "rankings"]
RECORDS: dict[str, type[Record]] = {
    "demonstrations": Demonstration, "prompts": Prompt, "comparisons": AnswerGroup, "rankings": AnswerGroup}
DATABASE = "tunesmith.db"
ELSEWHERE = "database.txt"
"""Lies in the folder of a workspace whose database is PostgreSQL, and names it without its password."""
VARIABLE = "TUNESMITH_DATABASE"
ROWS = "rows.jsonl"
_MOUNTS = Path("/proc/mounts")
_NETWORKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs"}


@dataclass(frozen=True)
class Dataset:
    """Imported or generated rows, immutable. `skipped` counts what the import left out, by reason."""

    name: str
    kind: Kind
    count: int
    fingerprint: str
    source: str
    licence: str
    skipped: dict[str, int]
    created: str
    path: Path

    def rows(self) -> Iterator[Any]:
        """The records, after the file's hash was checked.

        Raises:
            DataError: the file was altered or lost.
        """
        try:
            verify(self.path)
        except Damaged as e:
            raise DataError(f"dataset {self.name} is damaged: {e}; import it again under another name") from e
        with open(self.path / ROWS, encoding="utf-8") as lines:
            yield from (RECORDS[self.kind].from_dict(json.loads(line)) for line in lines)


@dataclass(frozen=True)
class Adapter:
    """The trained part, `name@version`: a PEFT folder that belongs to one base.

    After full fine-tuning `base["kind"]` is "full": the new base lies in `model/`, and `base["from"]` is the old one.
    """

    name: str
    version: int
    role: Literal["policy", "reward"]
    path: Path
    base: dict[str, Any]
    lineage: dict[str, Any]
    created: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Workspace:
    """One directory and one database. Safe to share between threads; several processes may open the same one."""

    def __init__(self, root: Path, database: Database):
        self.root, self.database = root, database

    @classmethod
    def open(cls, root: str | Path, busy_seconds: float = 10.0, database: str = "") -> Workspace:
        """The workspace in a folder, made on first use.

        Args:
            database: URL of a PostgreSQL database that nothing else uses, else what TUNESMITH_DATABASE says; SQLite
                in the folder if neither is given. A workspace stays where it was made.

        Raises:
            UserError: a file, a folder full of something else, a workspace of a newer version or of another database.
            MissingExtra: PostgreSQL without its driver.
            StorageError: read-only, no space, damaged, locked by another process for `busy_seconds`, or no answer.
        """
        root = Path(root).expanduser()
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is a file; a workspace is a folder")
        if root.is_dir() and not any((root / name).exists() for name in (DATABASE, ELSEWHERE)) and _foreign(root):
            raise UserError(f"{root} is neither empty nor a workspace (no {DATABASE} in it); choose another folder")
        root = root.absolute()
        if kind := _network(root, _MOUNTS):
            raise UserError(f"{root} lies on a network file system ({kind}), where databases lose data; "
                            "choose a folder on a local disk")
        url = _database_of(root, database or os.environ.get(VARIABLE, ""))
        with storing(root):
            root.mkdir(parents=True, exist_ok=True)
        opened = Database(url or f"sqlite:///{root / DATABASE}", root, busy_seconds)
        try:
            opened.check()
            opened.migrate()
            if url:
                write_atomically(root / ELSEWHERE, sa.make_url(url).render_as_string(hide_password=True) + "\n")
            workspace = cls(root, opened)
            workspace._tidy()
        except BaseException:
            opened.close()
            raise
        return workspace

    def close(self) -> None:
        """Let go of the database; what was acknowledged is already on disk."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- datasets

    def add_dataset(self, name: str, kind: Kind, rows: Iterable[Record], *, source: str = "", licence: str = "",
                    skipped: Mapping[str, int] | None = None,
                    beside: Callable[[], Mapping[str, str]] | None = None) -> Dataset:
        """Publish rows under a name. The same rows under the same name again give the dataset that is there.

        Args:
            skipped: counts of what was left out, by reason; read when the last row has come.
            beside: more files, asked for when the last row has come; their names and texts count as content.

        Raises:
            UserError: a bad name, no rows, or other rows have the name already.
            DataError: a row that is no record of this kind or cannot be stored.
            StorageError: no space, read-only.
        """
        valid_name(name, "dataset name")
        about = {"name": name, "kind": kind, "source": source, "licence": licence, "created": now(),
                 "code": code_version()}
        made: dict[str, Any] = {}

        def write(folder: Path) -> dict[str, Any]:
            made.update(_write_rows(folder / ROWS, kind, rows))
            if not made["count"]:
                raise UserError(f"dataset {name} would have no rows")
            if beside and (files := dict(beside())):
                for file, text in files.items():
                    (folder / file).write_text(text, encoding="utf-8")
                made["fingerprint"] = fingerprint([made["fingerprint"], files])
            return {**made, "skipped": dict(skipped or {})}

        try:
            path = publish(self.root / "data", iter([name]), write, about, "dataset")
        except Taken as e:
            try:
                there = _dataset(self.root / "data" / name, read_manifest(self.root / "data" / name))
            except Damaged as damage:
                raise UserError(f"a dataset named {name} exists and is damaged ({damage}); "
                                f"choose another name or delete {self.root / 'data' / name}") from e
            if (there.kind, there.fingerprint) != (kind, made["fingerprint"]):
                raise UserError(f"there is already another dataset named {name} ({there.count} {there.kind}); "
                                "datasets never change, choose another name") from e
            path = there.path
        self._record_dataset(path)
        return self.dataset(name)

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name.

        Raises:
            NotFound: naming the nearest.
            DataError: its folder is damaged or gone.
        """
        with self.database.read() as c:
            known = c.scalars(sa.select(db.datasets.c.name)).all()
        if name not in known:
            raise NotFound(f'no dataset "{name}"{nearest(name, known)}')
        try:
            path = self.root / "data" / name
            return _dataset(path, read_manifest(path))
        except Damaged as e:
            raise DataError(f"dataset {name} is damaged: {e}; import it again under another name") from e

    def datasets(self) -> list[Dataset]:
        """All datasets, oldest first."""
        with self.database.read() as c:
            rows = c.execute(sa.select(db.datasets).order_by(db.datasets.c.created, db.datasets.c.seq)).all()
        return [_dataset(self.root / "data" / row.name, {"about": json.loads(row.about)}) for row in rows]

    # ---- answer groups and rankings

    def add_groups(self, set_name: str, groups: Sequence[AnswerGroup]) -> int:
        """Put groups into a set that waits for rankings, making it if needed; how many were new to the set.

        Raises:
            UserError: a bad name.
            DataError: a group that cannot be stored.
        """
        valid_name(set_name, "name of a set")
        rows = {}
        for group in groups:
            try:
                id = group.id
                rows[id] = {"id": id, "answers": len(group.answers), "body": pack(group.to_dict())}
            except (ValueError, TypeError) as e:
                raise DataError(f"an answer group cannot be stored: {e}") from e
        rest, new = iter(rows.items()), 0
        while chunk := dict(itertools.islice(rest, 5000)):  # nobody waits long for the writer
            new += self.database.write(partial(insert_groups, set_name=set_name, rows=chunk))
        return new

    def groups(self, set_name: str) -> list[AnswerGroup]:
        """The groups of a set, in the order they came.

        Raises:
            NotFound: naming the nearest set.
        """
        with self.database.read() as c:
            seq = set_seq(c, set_name)
            bodies = sa.select(db.groups.c.body, db.members.c.position).join(db.members).where(
                db.members.c.set_seq == seq)
            return [AnswerGroup.from_dict(json.loads(row.body)) for row in pages(c, bodies, db.members.c.position)]

    def group(self, id: str) -> AnswerGroup:
        """One group.

        Raises:
            NotFound: nobody stored it.
        """
        with self.database.read() as c:
            body = c.scalar(sa.select(db.groups.c.body).where(db.groups.c.id == id))
        if body is None:
            raise NotFound(f'no answer group "{id}"')
        return AnswerGroup.from_dict(json.loads(body))

    def group_sets(self) -> list[dict[str, Any]]:
        """`{name, count, ranked, created}` of every set, oldest first; `ranked` groups have at least one ranking."""
        ranked = sa.exists().where(db.rankings.c.group_id == db.members.c.group_id)
        count = sa.select(sa.func.count()).where(db.members.c.set_seq == db.sets.c.seq)
        query = sa.select(db.sets.c.name, count.scalar_subquery().label("count"),
                          count.where(ranked).scalar_subquery().label("ranked"), db.sets.c.created)
        with self.database.read() as c:
            return [dict(row) for row in c.execute(query.order_by(db.sets.c.seq)).mappings()]

    def add_ranking(self, ranking: Ranking) -> bool:
        """Append a verdict; it is on disk when this returns. False if that id is stored already (a retry).

        Raises:
            NotFound: an unknown group.
            DataError: tiers, ratings or order do not fit the group, or the id or the labeler belongs to another.
            StorageError: not stored.
        """
        return self.add_rankings([ranking]) == 1

    def add_rankings(self, rankings: Sequence[Ranking]) -> int:
        """Append many verdicts at once, all or none; how many were new. Raises what `add_ranking` raises."""
        for ranking in rankings:
            check_ranking(ranking)
        return self.database.write(lambda c: insert_rankings(c, rankings))

    def rankings(self, set_name: str, latest: bool = False) -> list[Ranking]:
        """The verdicts on a set's groups, in the order they came.

        Args:
            latest: only the last of each labeler on each group, whatever it was for (training sees less: see
                `feedback.groups.ranked`).

        Raises:
            NotFound: naming the nearest set.
        """
        with self.database.read() as c:
            seq = set_seq(c, set_name)
            said = sa.select(db.rankings.c.group_id, db.rankings.c.labeler, db.rankings.c.body, db.rankings.c.seq).join(
                db.members, db.members.c.group_id == db.rankings.c.group_id).where(db.members.c.set_seq == seq)
            rows = list(pages(c, said, db.rankings.c.seq))
        if latest:
            last = {(row.group_id, row.labeler): n for n, row in enumerate(rows)}
            rows = [row for n, row in enumerate(rows) if last[row.group_id, row.labeler] == n]
        return [Ranking.from_dict(json.loads(row.body)) for row in rows]

    def labelers(self) -> list[Labeler]:
        """Everyone who judged, simulated ones marked so."""
        with self.database.read() as c:
            rows = c.execute(sa.select(db.labelers).order_by(db.labelers.c.created, db.labelers.c.name)).all()
        return [Labeler(row.name, row.simulated, row.role) for row in rows]

    # ---- adapters

    def publish_adapter(self, name: str, role: Literal["policy", "reward"], base: Mapping[str, Any],
                        write: Callable[[Path], None], lineage: Mapping[str, Any]) -> Adapter:
        """Publish what `write` puts into the folder it is given, as the next version of a name.

        Args:
            base: `spec` and `hash` of the base it belongs to.
            lineage: data fingerprints, settings, seed, parent, run; the code version is added.

        Raises:
            UserError: a bad name.
            StorageError: no space, read-only.
        """
        valid_name(name, "adapter name")
        if name == "base":
            raise UserError('an adapter cannot be named "base": that word means the bare base; choose another name')
        with self.database.read() as c:
            newest = c.scalar(sa.select(sa.func.max(db.adapters.c.version)).where(db.adapters.c.name == name)) or 0
        about = {"name": name, "role": role, "base": dict(base), "lineage": {"code": code_version(), **finite(lineage)},
                 "created": now()}
        places = (str(version) for version in itertools.count(newest + 1))
        path = publish(self.root / "adapters" / name, places, write, about, "adapter")
        self._record_adapter(path)
        return _adapter(path, about)

    def adapter(self, name: str) -> Adapter:
        """`"m"` is the newest version, `"m@2"` that one; all its files are checked against the manifest.

        Raises:
            NotFound: naming the nearest.
            ModelError: its files are damaged or gone.
        """
        stem, version = split_version(name)
        with self.database.read() as c:
            rows = c.execute(sa.select(db.adapters.c.name, db.adapters.c.version).where(not_removed())).all()
        versions = [row.version for row in rows if row.name == stem]
        if not versions:
            raise NotFound(f'no adapter "{stem}"{nearest(stem, {row.name for row in rows})}')
        if version is not None and version not in versions:
            there = ", ".join(str(v) for v in sorted(versions))
            raise NotFound(f'adapter "{stem}" has no version {version}; it has {there}')
        path = self.root / "adapters" / stem / str(version or max(versions))
        try:
            return _adapter(path, verify(path)["about"])
        except Damaged as e:
            raise ModelError(f"adapter {stem}@{path.name} is damaged: {e}; use another version or train again") from e

    def ancestry(self, adapter: Adapter) -> Iterator[Adapter]:
        """The adapter and everything that it was made from, each once; what is gone is left out."""
        seen, pending = set(), [adapter]
        while pending:
            one = pending.pop()
            if str(one) in seen:
                continue
            seen.add(str(one))
            yield one
            parents = map(self.find_adapter, one.lineage.get("parents", {}).values())
            pending += [parent for parent in parents if parent]

    def find_adapter(self, name: str) -> Adapter | None:
        """As `adapter`, without a look at its files, and as quick among a thousand; None if there is none."""
        stem, version = split_version(name)
        query = (sa.select(db.adapters).where(not_removed()).filter_by(name=stem)
                 .order_by(db.adapters.c.version.desc()).limit(1))
        with self.database.read() as c:
            row = c.execute(query if version is None else query.filter_by(version=version)).first()
        if row is None:
            return None
        return _adapter(self.root / "adapters" / row.name / str(row.version), json.loads(row.about))

    def adapters(self) -> list[Adapter]:
        """All versions of all adapters, oldest first."""
        with self.database.read() as c:
            rows = c.execute(sa.select(db.adapters).where(not_removed())
                             .order_by(db.adapters.c.created, db.adapters.c.seq)).all()
        return [_adapter(self.root / "adapters" / row.name / str(row.version), json.loads(row.about)) for row in rows]

    # ---- runs

    def start_run(self, command: str, settings: Mapping[str, Any], seed: int, inputs: Mapping[str, str]) -> Run:
        """A new run with its folder; this process holds it.

        Args:
            settings: JSON-able settings of the command.
            inputs: what it reads: name -> fingerprint or version.
        """
        created = now()
        stamp = created.replace("-", "").replace("T", "-").replace(":", "")[:15]
        id = f"{valid_name(command, 'command')}-{stamp}-{os.urandom(3).hex()}"
        about = {"settings": dict(settings), "seed": seed, "inputs": dict(inputs), "code": code_version()}
        folder = self.root / "runs" / id
        with storing(self.root):
            folder.mkdir(parents=True)
        write_atomically(folder / "settings.json",
                         json.dumps({"id": id, "command": command, **about, "created": created}, indent=1))
        row = {"id": id, "command": command, "status": "running", "about": pack(about), "summary": "{}",
               "created": created}
        self.database.write(lambda c: c.execute(sa.insert(db.runs).values(row)))
        run = self.run(id)
        run.hold()
        return run

    def run(self, id: str) -> Run:
        """The run of that id.

        Raises:
            NotFound: naming the nearest.
        """
        with self.database.read() as c:
            row = c.execute(sa.select(db.runs).where(db.runs.c.id == id)).first()
            if row is None:
                raise NotFound(f'no run "{id}"{nearest(id, c.scalars(sa.select(db.runs.c.id)).all())}')
        return from_row(row, self.root, self.database)

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        with self.database.read() as c:
            rows = c.execute(sa.select(db.runs).order_by(db.runs.c.seq)).all()
        return [from_row(row, self.root, self.database) for row in rows]

    # ---- recovery

    def _tidy(self) -> None:
        """Clear old leftovers of crashed writers; give a row to finished folders that lack one."""
        for parent in (self.root / "data", self.root / "tokens", *self.root.glob("adapters/*"),
                       *self.root.glob("runs/*"), *self.root.glob("runs/*/checkpoints")):
            clean(parent)
        with self.database.read() as c:
            datasets = set(c.scalars(sa.select(db.datasets.c.name)))
            rows = c.execute(sa.select(db.adapters.c.name, db.adapters.c.version)).all()
            adapters = {(row.name, str(row.version)) for row in rows}
        for path in self.root.glob("data/*"):
            if path.name not in datasets and not path.name.startswith("."):
                self._record_dataset(path)
        for path in self.root.glob("adapters/*/*"):
            if path.name.isdecimal() and (path.parent.name, path.name) not in adapters:
                self._record_adapter(path)

    def _record_dataset(self, path: Path) -> None:
        with contextlib.suppress(Damaged, ValueError):  # a damaged orphan was never anybody's: it stays out
            about = verify(path)["about"]
            self.database.write(lambda c: insert_once(
                c, db.datasets, {"name": path.name}, {"about": pack(about), "created": about["created"]}))

    def _record_adapter(self, path: Path) -> None:
        with contextlib.suppress(Damaged, ValueError):
            about = verify(path)["about"]
            self.database.write(lambda c: insert_once(
                c, db.adapters, {"name": path.parent.name, "version": int(path.name)},
                {"about": pack(about), "created": about["created"]}))


def not_removed() -> sa.ColumnElement[bool]:
    """Which rows of adapters are not of removed ones: those stay, so that no version number is used twice."""
    return db.adapters.c.about.not_like('{"removed"%')


def _database_of(root: Path, wanted: str) -> str:
    """The URL to open, empty for SQLite; a workspace is never opened on another database than its own."""
    if wanted and (root / DATABASE).exists():
        raise UserError(f"{root} has its database in {DATABASE}, not in PostgreSQL; unset {VARIABLE} or choose another "
                        "folder with --workspace")
    if not wanted and (root / ELSEWHERE).exists():
        raise UserError(f"{root} has its database at {(root / ELSEWHERE).read_text().strip()}; give its URL, with "
                        f"the password, in {VARIABLE}")
    if not wanted:
        return ""
    url, there = database_url(wanted), root / ELSEWHERE
    shown = sa.make_url(url).render_as_string(hide_password=True)
    if there.exists() and there.read_text().strip() != shown:
        raise UserError(f"{root} has its database at {there.read_text().strip()}, not at {shown}; set {VARIABLE} "
                        f"right, or change {there} if the server moved")
    return url


def _foreign(root: Path) -> bool:
    return any(not p.name.startswith(".") and p.name != "lost+found" for p in root.iterdir())


def _network(root: Path, mounts: Path) -> str:
    """The kind of network file system a folder lies on; empty for a local disk, or where nobody can tell."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    inside = [(row[1], row[2]) for row in rows if root.is_relative_to(row[1])]
    _, kind = max(inside, key=lambda mount: len(mount[0]), default=("", ""))
    return kind if kind in _NETWORKS else ""


def _write_rows(path: Path, kind: Kind, rows: Iterable[Record]) -> dict[str, Any]:
    """Canonical JSON lines; how many and their fingerprint, which depends on nothing but kind and content."""
    digest, count = hashlib.sha256(kind.encode()), 0
    with open(path, "wb") as f:
        for count, row in enumerate(rows, 1):
            if not isinstance(row, RECORDS[kind]):
                raise DataError(f"row {count} is a {type(row).__name__}; {kind} are {RECORDS[kind].__name__}s")
            try:
                text = json.dumps(row.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False,
                                  separators=(",", ":"))
                line = text.encode() + b"\n"
            except (ValueError, TypeError) as e:
                raise DataError(f"row {count} cannot be stored: {e}") from e
            digest.update(line)
            f.write(line)
    return {"count": count, "fingerprint": digest.hexdigest()[:16]}


def _dataset(path: Path, manifest: Mapping[str, Any]) -> Dataset:
    about = manifest["about"]
    return Dataset(path.name, about["kind"], about["count"], about["fingerprint"], about["source"], about["licence"],
                   about["skipped"], about["created"], path)


def _adapter(path: Path, about: Mapping[str, Any]) -> Adapter:
    base = about["base"]
    if base.get("kind") == "full":  # it holds its own base, whose name was not known before it was published
        base = {**base, "spec": f"{path.parent.name}@{path.name}"}
    return Adapter(path.parent.name, int(path.name), about["role"], path, base, about["lineage"], about["created"])
