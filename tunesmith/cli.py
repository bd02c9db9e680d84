"""The command line: one verb per step, flags made from the settings, heavy imports after parsing.

Names that only the quickstart knows (`loan-desk`) are resolved here and handed down.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from tunesmith import __version__, settings
from tunesmith.errors import GateClosed, SettingsError, TunesmithError, nearest
from tunesmith.terminal import Terminal, table, watched

if TYPE_CHECKING:
    from tunesmith.shop import Shop
    from tunesmith.store.workspace import Workspace

FROM_SETTINGS: dict[str, tuple[type[settings.Settings], tuple[str, ...]]] = {
    "quickstart": (settings.QuickstartSettings, ()),
    "import": (settings.ImportSettings, ("file",)),
    "sft": (settings.SftSettings, ()),
    "collect": (settings.CollectSettings, ()),
    "studio": (settings.StudioSettings, ()),
    "reward": (settings.RewardSettings, ()),
    "ppo": (settings.PpoSettings, ()),
    "prefer": (settings.PreferSettings, ()),
    "adapters merge": (settings.MergeSettings, ("adapters",)),
    "adapters transfer": (settings.TransferSettings, ("adapters",)),
    "evaluate": (settings.EvaluateSettings, ("models",)),
    "serve": (settings.ServeSettings, ()),
    "work": (settings.WorkSettings, ()),
    "migrate openai": (settings.MigrateSettings, ("folder",)),
}
"""Commands whose flags are the fields of a settings model, and which fields are given by position."""

LISTINGS = {
    "runs": ("training runs", ("ls", "show", "resume")),
    "adapters": ("adapters: where they come from, in and out", ("ls", "show", "fresh", "export", "import",
                                                                  "rm")),
    "data": ("datasets and sets of answers", ("ls", "show", "export", "move")),
}


class Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and names the nearest flag or word for a mistyped one."""

    def __init__(self, **known: Any):
        super().__init__(allow_abbrev=False, **known)

    def error(self, message: str) -> NoReturn:
        if match := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            message = f"unknown flag {match[1]}{nearest(match[1], self.flags())}"
        elif match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", match[2])
            message = f'unknown word "{match[1]}"{nearest(match[1], known)}'
        raise SettingsError(f"{self.prog}: {message}".removeprefix("tunesmith: "))

    def flags(self) -> list[str]:
        """Every long flag of this command."""
        return [o for a in self._actions for o in a.option_strings if o.startswith("--")]


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="tunesmith", description="Fine-tune language models with human feedback.")
    top.add_argument("--version", action="version", version=f"tunesmith {__version__}")
    top.set_defaults(workspace=os.environ.get("TUNESMITH_WORKSPACE", "workspace"), json=False)
    _common(top)
    verbs = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for verb, (model, positional) in FROM_SETTINGS.items():
        command = verbs.add_parser(verb, help=model.__doc__, description=model.__doc__)
        command.add_argument("--config", metavar="FILE.toml", help="settings from a file; flags win")
        for name, field in model.model_fields.items():
            _add_flag(command, name, field, positional)
        _common(command)
    for noun, (text, actions) in LISTINGS.items():
        command = verbs.add_parser(noun, help=text, description=text)
        command.add_argument("action", choices=actions, nargs="?", default="ls")
        command.add_argument("which", nargs="?", default="", help="a name, where the action needs one")
        if noun == "data":
            command.add_argument("--format", metavar="NAME", default="parquet", help="export: tunesmith, trl, openai, "
                                 "argilla, labelstudio, parquet, csv (default: parquet, a folder with a card)")
            command.add_argument("--out", metavar="PATH", default="", help="export: the new file or folder")
            command.add_argument("--names", action="store_true", help="export: keep the labelers' names")
            command.add_argument("--licence", metavar="NAME", default="", help="export: for the card")
            command.add_argument("--to", metavar="URL", default="", help="move: the PostgreSQL database that the "
                                 "workspace shall live in, or sqlite for its own folder; nobody may work meanwhile")
        if noun == "adapters":
            command.add_argument("--format", metavar="NAME", default="peft", help="export: peft, vllm (PEFT that vLLM "
                                 "serves), merged (a transformers model), gguf-lora, gguf-base, gguf (default: peft)")
            command.add_argument("--out", metavar="PATH", default="", help="export: the new file or folder")
            command.add_argument("--precision", metavar="{fp32,fp16,bf16,q8_0}", default="bf16",
                                 choices=("fp32", "fp16", "bf16", "q8_0"), help="export: of a whole model's weights; "
                                 "q8_0 for GGUF alone (default: bf16)")
            command.add_argument("--licence", metavar="NAME", default="", help="export: of the adapter, for the card")
            command.add_argument("--name", metavar="NAME", default="", help="import: the adapter's name here")
            command.add_argument("--base", metavar="NAME", default="", help="fresh: its base; import: default: the one "
                                 "that the folder names")
        _common(command)
    _add_team(verbs)
    _common(verbs.add_parser("doctor", help="what this machine can do, what is missing, how to get it"))
    return top


def _add_team(verbs: Any) -> None:
    """`keys` and `team`, which look after who may come in."""
    keys = verbs.add_parser("keys", help="keys of programs", description="keys of programs; a key is shown once")
    keys.add_argument("action", choices=("ls", "create", "revoke"), nargs="?", default="ls")
    keys.add_argument("which", nargs="?", default="", help="create: what will use the key; revoke: its id")
    keys.add_argument("--scopes", nargs="*", metavar="NAME", default=("chat",),
                      help="rank, read, data, manage, chat, files, fine_tuning (default: chat)")
    keys.add_argument("--account", metavar="NAME", default="me", help="whose key; a new account is a program's "
                      "(default: me)")
    keys.add_argument("--days", type=float, metavar="X", default=0, help="until it expires (default: never)")
    team = verbs.add_parser("team", help="people, invitations, the audit log",
                            description="people and what they may do")
    team.add_argument("action", choices=("ls", "invite", "link", "reset", "role", "activate", "deactivate", "audit"),
                      nargs="?", default="ls")
    team.add_argument("which", nargs="?", default="", help="a person's name")
    team.add_argument("--role", metavar="NAME", default="", help="invite, role: admin, manager, reviewer, labeler, "
                      "viewer (default: labeler)")
    team.add_argument("--url", metavar="URL", default="http://127.0.0.1:8400", help="where the studio runs, for links "
                      "(default: http://127.0.0.1:8400)")
    for command in (keys, team):
        _common(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0 on success, 2 on a person's mistake with one clear line on stderr."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' notes to developers; python -W default shows them
    try:
        command = _parse(sys.argv[1:] if argv is None else list(argv))
        terminal = Terminal(command.json)
        _COMMANDS[command.command](command, terminal)
        return 0
    except TunesmithError as e:
        print(f"tunesmith: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("tunesmith: interrupted; `tunesmith runs ls` shows what can be resumed", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    top = parser()
    pair = next((i for i, two in enumerate(pairwise(argv)) if " ".join(two) in FROM_SETTINGS), None)
    if pair is not None:  # a verb of two words
        argv = [*argv[:pair], " ".join(argv[pair:pair + 2]), *argv[pair + 2:]]
    command, unknown = top.parse_known_args(argv)
    if unknown:
        verb: Parser = next(a for a in top._actions if a.dest == "command").choices[command.command]  # type: ignore
        verb.error(f"unrecognized arguments: {' '.join(unknown)}")
    return command


def _add_flag(command: argparse.ArgumentParser, name: str, field: Any, positional: Sequence[str]) -> None:
    kind = field.annotation
    known: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
    many = get_origin(kind) is tuple
    if name in positional:
        command.add_argument(name, nargs="*" if many else "?", metavar=name.upper(), **known)
        return
    flag = f"--{(field.alias or name).replace('_', '-')}"
    if kind is bool:
        command.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, **known)
        return
    choices = "{" + ",".join(get_args(kind)) + "}" if get_origin(kind) is Literal else None
    plain = {int: "N", float: "X", str: "NAME"}
    known["metavar"] = choices or ("NAME" if many else plain.get(kind, "VALUE"))
    if many:
        known["nargs"] = "*"
    command.add_argument(flag, dest=name, **known)


def _help(field: Any) -> str:
    plain = field.is_required() or field.default in ("", ()) or field.annotation is bool
    default = " (required)" if field.is_required() else "" if plain else f" (default: {field.default})"
    return ((field.description or "") + default).replace("%", "%%").strip()


def _common(command: argparse.ArgumentParser) -> None:
    """Flags that stand before or after the command; suppressed defaults keep the one from overwriting the other."""
    command.add_argument("--workspace", metavar="DIR", default=argparse.SUPPRESS,
                         help="default: $TUNESMITH_WORKSPACE or ./workspace")
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object on stdout")


def _settings(command: argparse.Namespace) -> Any:
    model, _ = FROM_SETTINGS[command.command]
    flags = {k: v for k, v in vars(command).items() if k in model.model_fields}
    return model.load(flags, command.config)


def _shop(command: argparse.Namespace, terminal: Terminal) -> Shop:
    """The workspace and the built-in names."""
    from tunesmith.quickstart import builtin
    from tunesmith.shop import Shop
    from tunesmith.store.workspace import Workspace

    return Shop(Workspace.open(command.workspace), terminal.progress, builtin.BASES, builtin.JUDGES)


def _import(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    chosen, shop = _settings(command), _shop(command, terminal)
    if chosen.review:
        new, left = rounds.import_drafts(shop, chosen)
        return terminal.result({"desk": chosen.name, "new": new, "skipped": left},
                               f"{new} new drafts wait on the desk {chosen.name}{_skipped(left)}; review them: "
                               "tunesmith studio")
    if chosen.kind == "answers":
        groups, left = rounds.import_answers(shop, chosen)
        return terminal.result({"set": chosen.name, "groups": groups, "skipped": left},
                               f"{chosen.name}: {groups} new groups{_skipped(left)}; rank them: tunesmith studio "
                               f"--groups {chosen.name}")
    if judged := rounds.import_judgements(shop, chosen):
        groups, verdicts, left = judged
        return terminal.result({"set": chosen.name, "groups": groups, "verdicts": verdicts, "skipped": left},
                               f"{chosen.name}: {groups} new groups, {verdicts} new verdicts{_skipped(left)}")
    data = rounds.import_file(shop, chosen)
    return terminal.result({"name": data.name, "kind": data.kind, "rows": data.count, "skipped": dict(data.skipped)},
                    f"{data.name}: {data.count} {data.kind} imported{_skipped(data.skipped)}")


def _train(step: str) -> Callable[[argparse.Namespace, Terminal], None]:
    def run(command: argparse.Namespace, terminal: Terminal) -> None:
        from tunesmith import rounds

        chosen = _settings(command)
        shop = _shop(command, terminal)
        _published(shop, getattr(rounds, step)(shop, chosen), terminal)

    return run


def _published(shop: Shop, adapter: Any, terminal: Terminal) -> None:
    summary = dict(shop.workspace.run(adapter.lineage["run"]).summary)
    lines = [f"{adapter} is ready: {adapter.path}"]
    if held_out := summary.get("held_out"):
        lines.append(_held_out(held_out))
    lines.append(f"{summary['tokens_per_second']:,.0f} tokens/s, {summary['fraction_of_limit']:.0%} of this machine's "
                 f"limit, peak {summary['peak_mb']:,.0f} MB{_skipped(summary.get('skipped', {}))}")
    trained, whole = summary["trained_parameters"], summary["parameters"]
    lines.append(f"trained {trained:,} of {whole:,} parameters, {100 * trained / whole:.3g}%")
    if ungraded := summary.get("grader_errors"):
        lines.append("answers that could not be graded: " + ", ".join(f"{why} {n:.1%}" for why, n in ungraded.items()))
    lines += watched(summary)
    lines.append(f"used: {_used(summary)}")
    if adapter.lineage["parents"]:
        from tunesmith.train import cost

        lines.append(f"with all that it was made from: {_used(cost.lineage(shop.workspace, adapter))}")
    terminal.result({"adapter": str(adapter), "path": str(adapter.path), **summary}, "\n".join(lines))


def _held_out(found: Mapping[str, Any]) -> str:
    """One line on what was kept for measuring: pairs or single answers, by a reward model or a policy's own rewards."""
    if "auc" in found:
        return f"held-out AUC: {found['auc']:.3f}"
    share = found.get("accuracy", {"n": 0})
    if not share["n"]:
        return "held-out: nothing to judge by"
    what = "pairs ranked" if "pairs" in found else "answers judged"
    error = f"; calibration error {found['calibration_error']:.3f}" if "calibration_error" in found else ""
    interval = f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"
    return f"held-out {what} right: {interval}, n = {share['n']}{error}"


def _collect(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    chosen = _settings(command)
    name = chosen.name or chosen.prompts
    made = rounds.collect(_shop(command, terminal), chosen)
    terminal.result({"set": name, "groups": made},
                    f"{made} groups of {chosen.answers} answers in {name}; rank them: tunesmith studio --groups {name}")


def _evaluate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import evaluation

    made = evaluation.evaluate(_shop(command, terminal), _settings(command))
    terminal.result(made.report, "\n".join([*made.verdict, f"report: {made.path}"]))
    gate = made.report.get("gate")
    if gate and not gate["passed"]:
        broken = [f"{r['rule']} (found {r['found']})" for r in gate["rules"] if not r["passed"]]
        raise GateClosed(f"the gate is not passed: {'; '.join(broken)}")


def _studio(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service.app import create_app, run_server

    chosen, shop = _settings(command), _shop(command, terminal)
    spec, engine = _engine(shop)
    app = create_app(shop.workspace, engine, base=spec, labeler=chosen.labeler, hosts=chosen.allow_host,
                     https=chosen.https, oidc=_provider(chosen))
    path = f"/rank/{chosen.groups}" if chosen.groups else "/"
    run_server(app, chosen.host, chosen.port, lambda url: terminal.say(
        f"studio: {_entrance(shop.workspace, app, url, path)}  (Ctrl+C ends it)\n{_ONCE}{_plain(chosen)}"))


def _serve(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service.app import create_app, run_server
    from tunesmith.service.quotas import Quotas
    from tunesmith.store import keys

    chosen, shop = _settings(command), _shop(command, terminal)
    spec, engine = _engine(shop, chosen.base, chosen.rows)
    quotas = Quotas(chosen.requests_per_minute, chosen.storage_mb * 2**20, chosen.unfinished_jobs)
    app = create_app(shop.workspace, engine, base=spec, labeler=chosen.labeler, hosts=chosen.allow_host,
                     https=chosen.https, oidc=_provider(chosen), quotas=quotas, train=chosen.train,
                     courier=_courier(shop, chosen),
                     **_serving(shop, chosen))
    needs = ("needs a key" if keys.any_key(shop.workspace) or chosen.allow_host else
             "is open to every program on this machine until you make a key")
    run_server(app, chosen.host, chosen.port, lambda url: terminal.say(
        f"OpenAI-compatible API: {url}v1  studio: {_entrance(shop.workspace, app, url)}  (Ctrl+C ends it)\n"
        f"The API {needs}: tunesmith keys create NAME --scopes chat. {_ONCE}{_plain(chosen)}"))


def _provider(chosen: settings.Served) -> Any:
    """Where people may sign in beside here; None if nowhere."""
    from tunesmith.service import oidc

    return oidc.provider(chosen.oidc_issuer, chosen.oidc_client_id, os.environ.get(oidc.SECRET, ""),
                         chosen.oidc_domain, chosen.oidc_role)


def _serving(shop: Shop, chosen: settings.ServeSettings) -> dict[str, Any]:
    """What `create_app` is told of how to answer."""
    from tunesmith.service import guard
    from tunesmith.service.gateway import gateway
    from tunesmith.service.hub import Limits

    return {"limits": Limits(chosen.waiting, chosen.adapter_mb * 2**20, chosen.seconds),
            "guard": guard.load(chosen.guard, shop.workspace) if chosen.guard else None,
            "gateway": gateway(chosen.engine, chosen.seconds) if chosen.engine else None}


def _courier(shop: Shop, chosen: settings.ServeSettings) -> Any:
    """Who tells webhooks of jobs that have ended; None without one."""
    from tunesmith.service import webhooks

    if not chosen.webhook:
        return None
    return webhooks.Courier(shop.workspace, chosen.webhook, webhooks.secret_of(chosen.webhook_secret))


def _engine(shop: Shop, base: str = "", rows: int = 64) -> tuple[str, Callable[[], Any]]:
    """The base to serve (the newest adapter's, if none is named), and what loads it when somebody first asks."""
    spec = base or next((str(a.base["spec"]) for a in reversed(shop.workspace.adapters())), "loan-desk")

    def engine() -> Any:
        from tunesmith.model.engine import LocalEngine
        from tunesmith.model.known import Known
        from tunesmith.model.serving import Serving

        return Serving(LocalEngine(shop.base(spec), rows, known=Known()))

    return spec, engine


def _work(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds
    from tunesmith.service import trainer
    from tunesmith.service.worker import Worker
    from tunesmith.store import jobs

    chosen, shop = _settings(command), _shop(command, terminal)
    if not chosen.once:
        def ended(id: str) -> None:
            terminal.say(f"{id}: {jobs.find(shop.workspace, id).status}")

        return Worker(shop.workspace, ended).run(chosen.until_idle)
    os.nice(5)  # who chats with a model does not wait for one that is trained
    hands = trainer.Hands(lambda *step: rounds.train(shop, *step), lambda *what: rounds.fresh(shop, *what))
    status = trainer.work(shop.workspace, chosen.once, chosen.token, hands)
    return terminal.result({"job": chosen.once, "status": status}, f"{chosen.once}: {status}")


_ONCE = "The studio's link signs you in, once, within 10 minutes; a new one: tunesmith team link."


def _entrance(workspace: Any, app: Any, url: str, path: str = "/") -> str:
    """The link that signs in who started the server."""
    from tunesmith.service import access
    from tunesmith.store import team

    return f"{url.rstrip('/')}{access.entrance(team.link(workspace, app.state.owner, team.SHELL), path)}"


def _plain(chosen: settings.Served) -> str:
    return "" if chosen.https or not chosen.allow_host else (
        "\nWithout https everybody on the way can read passwords: put a proxy that encrypts in front, and add --https.")


def _quickstart(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.quickstart import story

    made = story.run(_shop(command, terminal), _settings(command), terminal)
    terminal.result(made.report, "\n".join(["", *made.verdict, f"report: {made.path}"]))


def _runs(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds
    from tunesmith.train import cost

    shop = _shop(command, terminal)
    if command.action == "ls":
        rows = [{"run": r.id, "command": r.command, "status": r.status, "created": r.created,
                 "adapter": r.summary.get("adapter", "")} for r in shop.workspace.runs()]
        return terminal.result({"runs": rows}, table(rows))
    run = shop.workspace.run(_which(command))
    if command.action == "resume":
        return _published(shop, rounds.resume(shop, run), terminal)
    shown = {"run": run.id, "command": run.command, "status": run.status, "seed": run.seed, "inputs": dict(run.inputs),
             "settings": dict(run.settings), "summary": dict(run.summary), "last": (run.metrics() or [{}])[-1],
             "used so far": cost.total(run.usage())}
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def _adapters(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library
    from tunesmith.train import cost

    workspace = _shop(command, terminal).workspace
    if command.action == "ls":
        rows = [{"adapter": str(a), "role": a.role, "base": a.base["spec"], "created": a.created}
                for a in workspace.adapters()]
        return terminal.result({"adapters": rows}, table(rows))
    if command.action in _MOVES:
        return _MOVES[command.action](command, terminal)
    a = workspace.adapter(_which(command))
    shown = {"adapter": str(a), "role": a.role, "path": str(a.path), "base": dict(a.base), "lineage": dict(a.lineage),
             "licences of what it learned from": library.licences(workspace, a),
             "evaluations": library.evaluations(workspace, a),
             "cost of it and all that it was made from": cost.lineage(workspace, a)}
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def _export_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    if not command.out:
        raise SettingsError("tunesmith adapters export NAME needs --out PATH")
    path = rounds.export(_shop(command, terminal), _which(command), command.format, command.out, command.precision,
                         command.licence)
    terminal.result({"path": str(path), "format": command.format}, f"{path}: {command.which} as {command.format}")


def _import_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    if not command.name:
        raise SettingsError("tunesmith adapters import FOLDER needs --name NAME")
    adapter = rounds.import_adapter(_shop(command, terminal), _which(command), command.name, command.base)
    terminal.result({"adapter": str(adapter), "path": str(adapter.path)}, f"{adapter} is ready: {adapter.path}")


def _remove_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.store import removal

    adapter = removal.remove_adapter(_shop(command, terminal).workspace, _which(command))
    terminal.result({"removed": str(adapter)}, f"{adapter} is removed")


def _fresh_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    adapter = rounds.fresh(_shop(command, terminal), command.base, _which(command))
    terminal.result({"adapter": str(adapter), "path": str(adapter.path)}, f"{adapter} changes nothing yet, and is for "
                    "methods that begin with an adapter")


_MOVES = {"fresh": _fresh_adapter, "export": _export_adapter, "import": _import_adapter, "rm": _remove_adapter}


def _licensed(licences: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({said or 'licence not said'})" for name, said in licences.items()) or "unknown data"


def _merge(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library

    adapter = library.merge(_shop(command, terminal), _settings(command))
    made = adapter.lineage["merged"]
    parts = ", ".join(f"{weight:.3g} x {name}" for name, weight in made["weights"].items())
    lost = f"; {made['lost']:.1%} of the change lost" if made.get("lost") else ""
    terminal.result({"adapter": str(adapter), "path": str(adapter.path), **made},
                    f"{adapter} is ready: {adapter.path}\n{made['how']} of {parts}, rank {made['rank']}{lost}\n"
                    f"learned from: {_licensed(made['licences'])}")


def _transfer(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library

    rows = library.transfer(_shop(command, terminal), _settings(command))
    terminal.result({"rows": [row.to_dict() for row in rows]}, "\n".join(
        [table(library.table(rows)), "nats per token; * is what a new adapter for this data should start from "
         "(--after), base: nothing helps for sure"]))


def _data(command: argparse.Namespace, terminal: Terminal) -> None:
    workspace = _shop(command, terminal).workspace
    if command.action == "ls":
        rows: list[Mapping[str, Any]] = [{"name": d.name, "kind": d.kind, "rows": d.count, "ranked": ""}
                                         for d in workspace.datasets()]
        rows += [{"name": s["name"], "kind": "answer groups", "rows": s["count"], "ranked": s["ranked"]}
                 for s in workspace.group_sets()]
        return terminal.result({"data": rows}, table(rows))
    if command.action == "export":
        return _export(command, terminal, workspace)
    if command.action == "move":
        return _move(command, terminal, workspace)
    d = workspace.dataset(_which(command))
    first = next(iter(d.rows())).to_dict()
    shown = {"name": d.name, "kind": d.kind, "rows": d.count, "fingerprint": d.fingerprint, "source": d.source,
             "licence": d.licence, "skipped": dict(d.skipped), "first row": first}
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def _export(command: argparse.Namespace, terminal: Terminal, workspace: Workspace) -> None:
    from tunesmith.store import exchange, team

    if not command.out:
        raise SettingsError("tunesmith data export NAME needs --out PATH")
    made = exchange.export(workspace, _which(command), command.format, command.out, names=command.names,
                           licence=command.licence)
    team.audit(workspace, team.SHELL, "data.export", command.which,
               {"format": command.format, "rows": made.rows, "names": command.names})
    terminal.result({"path": str(made.path), "rows": made.rows, "skipped": dict(made.skipped)},
                    f"{made.path}: {made.rows} rows{_skipped(made.skipped)}")


def _move(command: argparse.Namespace, terminal: Terminal, workspace: Workspace) -> None:
    from tunesmith.store.move import SQLITE, move
    from tunesmith.store.workspace import VARIABLE

    workspace.close()
    if not command.to:
        raise SettingsError("tunesmith data move needs --to URL (of an empty PostgreSQL database) or --to sqlite")
    rows = move(workspace.root, command.to)
    then = f"unset {VARIABLE}" if command.to == SQLITE else f"set {VARIABLE} to its URL"
    terminal.result({"moved": rows}, f"{sum(rows.values()):,} rows of {len(rows)} tables moved and compared; from now "
                                     f"on {then}")


def _keys(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.store import keys, team

    workspace = _shop(command, terminal).workspace
    if command.action == "ls":
        rows = [{"id": k.id, "name": k.name, "account": k.account, "key": k.hint, "scopes": " ".join(k.scopes),
                 "works": "yes" if k.works else "revoked" if k.revoked else "expired", "created": k.created}
                for k in keys.keys(workspace)]
        return terminal.result({"keys": rows}, table(rows))
    if command.action == "revoke":
        keys.revoke_key(workspace, id := _which(command), team.SHELL)
        return terminal.result({"revoked": id}, f"{id} works no more")
    if command.account not in {a.name for a in team.accounts(workspace)}:
        team.new_account(workspace, command.account, "admin" if command.account == "me" else "api", team.SHELL)
    key, secret = keys.create_key(workspace, command.account, _which(command), command.scopes, team.SHELL, command.days)
    return terminal.result({"id": key.id, "key": secret, "scopes": list(key.scopes), "expires": key.expires},
                           f"{secret}\nIt is shown only now. It may: {', '.join(key.scopes)}; of {key.account}; "
                           f"to end it: tunesmith keys revoke {key.id}")


def _team(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service import access
    from tunesmith.store import team

    workspace = _shop(command, terminal).workspace
    shell, url = team.SHELL, command.url.rstrip("/")
    if command.action == "ls":
        rows = [{"name": a.name, "role": a.role, "active": "yes" if a.active else "no",
                 "password": "yes" if a.password else "no", "created": a.created} for a in team.accounts(workspace)]
        return terminal.result({"team": rows}, table(rows))
    if command.action == "audit":
        count, head = team.verify_audit(workspace)
        lines = [f"{e.at}  {e.actor}  {e.action}  {e.object}  {e.detail or ''}" for e in team.entries(workspace)[::-1]]
        return terminal.result({"entries": count, "head": head}, "\n".join(
            [*lines, f"{count} entries, unaltered; the newest has the digest {head}"]))
    if command.action == "invite":
        secret = team.invite(workspace, command.role or "labeler", shell, command.which)
        return _link(terminal, f"{url}/invite?key={secret}", f"once, for {team.INVITATION_DAYS} days")
    if command.action == "link":
        secret = team.link(workspace, command.which or "me", shell)
        return _link(terminal, f"{url}{access.entrance(secret)}", f"once, for {team.LINK_MINUTES} minutes")
    name = _which(command)
    if command.action == "reset":
        secret = team.reset_password(workspace, name, shell)
        return _link(terminal, f"{url}{access.entrance(secret, '/account')}", f"once, for {team.INVITATION_DAYS} days")
    if command.action == "role":
        team.set_role(workspace, name, command.role or "labeler", shell)
    else:
        team.set_active(workspace, name, command.action == "activate", shell)
    now = team.account(workspace, name)
    return terminal.result({"name": name, "role": now.role, "active": now.active},
                           f"{name} is {now.role}{'' if now.active else ', switched off'}")


def _link(terminal: Terminal, link: str, works: str) -> None:
    terminal.result({"link": link}, f"{link}\nIt works {works}.")


def _migrate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import migrate, rounds

    chosen, shop = _settings(command), _shop(command, terminal)
    found = migrate.migrate(shop.workspace, chosen)
    base, ready = chosen.base or migrate.BASE, [p for p in found.plans if p.stages]
    lines = [f"{d.name}: {d.count} {d.kind}" for d in found.datasets]
    lines += ["", table(migrate.rows(found.plans), "no jobs"), ""]
    for plan in ready:
        lines += [f"# {plan.name}: {plan.method} of {plan.id}", *([f"# {plan.note}"] if plan.note else []),
                  *plan.commands(base), ""]
    lines += [f"left out: {n} x {why}" if n > 1 else f"left out: {why}" for why, n in found.skipped.items()]
    trained = [str(rounds.once(shop, base, stage.command, stage.name, stage.settings))
               for plan in ready for stage in plan.stages if chosen.run]
    lines += [f"trained: {name}" for name in trained]
    jobs = [{"job": p.id, "name": p.name, "method": p.method, "model": p.model, "status": p.status, "data": p.data,
             "valid": p.valid, "used": dict(p.used), "commands": p.commands(base), "why": p.why, "note": p.note}
            for p in found.plans]
    terminal.result({"datasets": {d.name: d.count for d in found.datasets}, "jobs": jobs, "trained": trained,
                     "skipped": dict(found.skipped)}, "\n".join(lines).strip())


def _doctor(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import doctor

    found = doctor.examine(command.workspace)
    terminal.result({"checks": found}, table(found))


def _which(command: argparse.Namespace) -> str:
    if not command.which:
        raise SettingsError(f"tunesmith {command.command} {command.action}: which one? "
                            f"`tunesmith {command.command} ls` lists them")
    return str(command.which)


def _used(cost: Mapping[str, Any]) -> str:
    """A run's cost in one line."""
    gpu = f", {cost['gpu_seconds']:,.0f} GPU-seconds" if cost["gpu_seconds"] else ""
    minutes = f"; {cost['label_minutes']:,.1f} label minutes" if cost.get("label_minutes") else ""
    return (f"{cost['tokens']:,} tokens, {cost['seconds']:,.0f} s, {cost['core_seconds']:,.0f} core-seconds{gpu}, "
            f"{cost['kwh']:.4g} kWh, {cost['co2_grams']:.3g} g CO2 ({cost['energy']}){minutes}")


def _skipped(counts: Mapping[str, int]) -> str:
    return "".join(f"; {n} left out: {why}" for why, n in counts.items() if n)


_COMMANDS: dict[str, Callable[[argparse.Namespace, Terminal], None]] = {
    "quickstart": _quickstart, "import": _import, "sft": _train("sft"), "collect": _collect, "studio": _studio,
    "reward": _train("reward"), "ppo": _train("ppo"), "prefer": _train("prefer"), "evaluate": _evaluate,
    "migrate openai": _migrate,
    "serve": _serve, "work": _work, "runs": _runs, "adapters": _adapters, "data": _data, "keys": _keys, "team": _team,
    "doctor": _doctor, "adapters merge": _merge, "adapters transfer": _transfer,
}
