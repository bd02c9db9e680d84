"""The command line: one verb per step, flags made from the settings, heavy imports after parsing.

Names that only the quickstart knows (`loan-desk`) are resolved here and handed down.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NoReturn, get_args, get_origin

from tunesmith import __version__, settings
from tunesmith.commands import (
    adapters,
    aihelp,
    curation,
    data,
    interactions,
    mining,
    mixing,
    rounds,
    serving,
    steps,
    team,
)
from tunesmith.errors import SettingsError, TunesmithError, nearest
from tunesmith.terminal import Terminal

FROM_SETTINGS: dict[str, tuple[type[settings.Settings], tuple[str, ...]]] = {
    "quickstart": (settings.QuickstartSettings, ()),
    "import": (settings.ImportSettings, ("file",)),
    "interactions": (settings.InteractionsSettings, ("action", "which")),
    "sft": (settings.SftSettings, ()),
    "collect": (settings.CollectSettings, ()),
    "studio": (settings.StudioSettings, ()),
    "reward": (settings.RewardSettings, ()),
    "ppo": (settings.PpoSettings, ()),
    "prefer": (settings.PreferSettings, ()),
    "adapters merge": (settings.MergeSettings, ("adapters",)),
    "adapters transfer": (settings.TransferSettings, ("adapters",)),
    "data dedupe": (settings.DedupeSettings, ("data",)),
    "data decontaminate": (settings.DecontaminateSettings, ("data",)),
    "data health": (settings.HealthSettings, ("data",)),
    "data generate": (settings.GenerateSettings, ("seeds",)),
    "data curve": (settings.CurveSettings, ("data",)),
    "data mix": (settings.MixSettings, ("recipe",)),
    "mine": (settings.MineSettings, ()),
    "mine overlap": (settings.OverlapSettings, ()),
    "revise": (settings.ReviseSettings, ("data",)),
    "judge": (settings.JudgeSettings, ("groups",)),
    "evaluate": (settings.EvaluateSettings, ("models",)),
    "round": (settings.RoundCommand, ("action", "which")),
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
        if command.command in FROM_SETTINGS:
            command.settings = _settings(command)
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


_COMMANDS: dict[str, Callable[[argparse.Namespace, Terminal], None]] = {
    "quickstart": steps.quickstart, "import": steps.import_file,
    "interactions": interactions.interactions, "sft": steps.train("sft"), "collect": steps.collect,
    "studio": serving.studio, "reward": steps.train("reward"), "ppo": steps.train("ppo"),
    "prefer": steps.train("prefer"), "evaluate": steps.evaluate, "round": rounds.round,
    "migrate openai": steps.migrate,
    "serve": serving.serve, "work": serving.work, "runs": steps.runs, "adapters": adapters.adapters,
    "adapters merge": adapters.merge, "adapters transfer": adapters.transfer, "data": data.data, "keys": team.keys,
    "team": team.team, "doctor": steps.doctor,
    "data dedupe": curation.dedupe, "data decontaminate": curation.decontaminate, "data health": curation.health,
    "data generate": curation.generate, "data curve": curation.curve,
    "revise": aihelp.revise, "judge": aihelp.judge,
    "data mix": mixing.mix, "mine": mining.mine, "mine overlap": mining.overlap,
}
