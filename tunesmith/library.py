"""The workspace's adapters as a library: which one helps on which data, and several as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NotFound, UserError
from tunesmith.settings import MergeSettings, TransferSettings
from tunesmith.shop import Shop
from tunesmith.store.workspace import Adapter, Workspace

if TYPE_CHECKING:
    from tunesmith.model.base import Base
    from tunesmith.model.batch import Tree
    from tunesmith.train.transfer import Row


def merge(shop: Shop, settings: MergeSettings) -> Adapter:
    """Several adapters -> one, published with how it was made and what a smaller rank lost.

    Raises:
        UserError: reward models, or other data than demonstrations to fit weights on.
        ModelError: adapters of several bases, or other than plain LoRA.
    """
    from tunesmith.model import adapters, merging
    from tunesmith.train import transfer

    members = [_policy(shop.workspace, name) for name in settings.adapters]
    base = shop.base_of(str(members[0]))
    attached = _attach(shop.workspace, base, members)
    parts = [merging.change(base, slot) for slot in attached.values()]
    weights: Sequence[float] = settings.weights or [1 / len(parts)] * len(parts)
    if settings.fit:
        trees, _ = _demonstrations(shop.workspace, base, settings.fit, settings.examples)
        weights = transfer.weigh(base, parts, trees)
    about: dict[str, Any] = {"how": settings.how, "weights": dict(zip(attached, weights))}
    if settings.how == "sum":
        whole = merging.total(parts, weights)
        made = merging.shrunk(whole, settings.rank) if settings.rank else whole
        about["lost"] = merging.lost(whole, made)
    else:
        rank = settings.rank or max(len(f.a) for part in parts for f in part.values())
        made = merging.sparse(parts, weights, settings.how, settings.density, rank, settings.seed)
        about |= {"density": settings.density, "seed": settings.seed}
    about["rank"] = max(len(f.a) for f in made.values())
    about["licences"] = {name: said for m in members for name, said in licences(shop.workspace, m).items()}
    merging.attach(base, "merged", made)
    data = {settings.fit: shop.workspace.dataset(settings.fit).fingerprint} if settings.fit else {}
    lineage = {"merged": about, "parents": {f"part {i + 1}": str(m) for i, m in enumerate(members)}, "data": data,
               "settings": settings.model_dump(mode="json")}
    return shop.workspace.publish_adapter(settings.name, "policy", base.describe(),
                                          lambda folder: adapters.save(base, "merged", folder), lineage)


def transfer(shop: Shop, settings: TransferSettings) -> list[Row]:
    """Each adapter on each dataset, beside the bare base.

    Raises:
        UserError: no adapter, or other data than demonstrations.
        ModelError: adapters of several bases.
    """
    from tunesmith.train import transfer as trainer

    members = [_policy(shop.workspace, name) for name in settings.adapters]
    members = members or _all_of(shop.workspace, settings.base)
    base = shop.base_of(str(members[0]), settings.base)
    attached = _attach(shop.workspace, base, members)
    rows = []
    with shop.progress("transfer") as progress:
        for i, name in enumerate(settings.data):
            trees, _ = _demonstrations(shop.workspace, base, name, settings.limit, settings.max_tokens)
            rows.append(trainer.row(base, name, trees, attached, settings.seed))
            progress(i + 1, len(settings.data), {})
    return rows


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The transfer matrix as people read it: nats per token with intervals, * the best start."""
    return [{"data": row.data, **{name: f"{loss:.3f}{' *' if name == row.best else ''}"
                                  for name, loss in row.loss.items()}} for row in rows]


def licences(workspace: Workspace, adapter: Adapter) -> dict[str, str]:
    """The licence of every dataset that an adapter and those before it learned from: "" where it was not said or the
    data are gone. What was imported says it of itself."""
    found: dict[str, str] = {}
    for one in workspace.ancestry(adapter):
        told = one.lineage.get("imported", {}).get("licences")
        found |= {str(name): str(said) for name, said in told.items()} if isinstance(told, dict) else {}
        for name in one.lineage.get("data", {}):
            with suppress(NotFound):
                found[name] = workspace.dataset(name).licence
            found.setdefault(name, "")
    return dict(sorted(found.items()))


def evaluations(workspace: Workspace, adapter: Adapter) -> list[dict[str, str]]:
    """What the workspace's reports say first of this very version: {"report", "created", "says"}, the newest first."""
    found = []
    for path in (workspace.root / "reports").glob("*/report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        if str(adapter) in report.get("how", {}) and report.get("verdict"):
            found.append({"report": str(path.with_suffix(".html")), "created": report["created"],
                          "says": report["verdict"][0]["text"]})
    return sorted(found, key=lambda f: f["created"], reverse=True)


def _policy(workspace: Workspace, name: str) -> Adapter:
    adapter = workspace.adapter(name)
    if adapter.role != "policy":
        raise UserError(f"{adapter} is a reward model; only policies can be merged or compared on demonstrations")
    if adapter.base.get("kind") == "full":
        raise UserError(f"{adapter} is a base that was trained as a whole, not an adapter")
    return adapter


def _all_of(workspace: Workspace, spec: str) -> list[Adapter]:
    """The newest version of every policy of a base; of the base that was trained on last if none is named."""
    policies = [a for a in workspace.adapters() if a.role == "policy" and a.base.get("kind") != "full"]
    spec = spec or next((a.base["spec"] for a in reversed(policies)), "")
    newest = {a.name: a for a in policies if a.base["spec"] == spec}
    if not newest:
        raise UserError(f"no adapter of base {spec} yet; tunesmith sft trains one")
    return list(newest.values())


def _attach(workspace: Workspace, base: Base, members: Sequence[Adapter]) -> Mapping[str, str]:
    """Each adapter's name and the slot it is attached in."""
    from tunesmith.model import adapters
    from tunesmith.train.session import on_base

    attached = {}
    for i, adapter in enumerate(on_base(workspace, base, *map(str, members))):
        adapters.load(base, slot := f"library{i}", adapter.path)
        attached[str(adapter)] = slot
    return attached


def _demonstrations(workspace: Workspace, base: Base, name: str, limit: int, longest: int = 0,
                    ) -> tuple[list[Tree], dict[str, int]]:
    from tunesmith.train import sft
    from tunesmith.train.session import dataset

    rows = list(dataset(workspace, name, "demonstrations").rows())
    return sft.encode(base, rows[:limit], longest or base.context)
