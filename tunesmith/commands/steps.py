"""The steps from demonstrations to a report, and what the runs of them did."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.commands.common import open_shop, skipped, which
from tunesmith.commands.interactions import import_log
from tunesmith.errors import GateClosed
from tunesmith.terminal import Terminal, table, watched

if TYPE_CHECKING:
    from tunesmith.shop import Shop


def import_file(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    chosen, shop = command.settings, open_shop(command, terminal)
    if chosen.kind == "interactions":
        return import_log(shop.workspace, chosen, terminal)
    if chosen.review:
        new, left = rounds.import_drafts(shop, chosen)
        return terminal.result({"desk": chosen.name, "new": new, "skipped": left},
                               f"{new} new drafts wait on the desk {chosen.name}{skipped(left)}; review them: "
                               "tunesmith studio")
    if chosen.kind == "answers":
        groups, left = rounds.import_answers(shop, chosen)
        return terminal.result({"set": chosen.name, "groups": groups, "skipped": left},
                               f"{chosen.name}: {groups} new groups{skipped(left)}; rank them: tunesmith studio "
                               f"--groups {chosen.name}")
    if judged := rounds.import_judgements(shop, chosen):
        groups, verdicts, left = judged
        return terminal.result({"set": chosen.name, "groups": groups, "verdicts": verdicts, "skipped": left},
                               f"{chosen.name}: {groups} new groups, {verdicts} new verdicts{skipped(left)}")
    data = rounds.import_file(shop, chosen)
    return terminal.result({"name": data.name, "kind": data.kind, "rows": data.count, "skipped": dict(data.skipped)},
                    f"{data.name}: {data.count} {data.kind} imported{skipped(data.skipped)}")


def train(step: str) -> Callable[[argparse.Namespace, Terminal], None]:
    def run(command: argparse.Namespace, terminal: Terminal) -> None:
        from tunesmith import rounds

        chosen = command.settings
        shop = open_shop(command, terminal)
        published(shop, getattr(rounds, step)(shop, chosen), terminal)

    return run


def published(shop: Shop, adapter: Any, terminal: Terminal) -> None:
    summary = dict(shop.workspace.run(adapter.lineage["run"]).summary)
    lines = [f"{adapter} is ready: {adapter.path}"]
    if found := summary.get("held_out"):
        lines.append(held_out(found))
    lines.append(f"{summary['tokens_per_second']:,.0f} tokens/s, {summary['fraction_of_limit']:.0%} of this machine's "
                 f"limit, peak {summary['peak_mb']:,.0f} MB{skipped(summary.get('skipped', {}))}")
    trained, whole = summary["trained_parameters"], summary["parameters"]
    lines.append(f"trained {trained:,} of {whole:,} parameters, {100 * trained / whole:.3g}%")
    if ungraded := summary.get("grader_errors"):
        lines.append("answers that could not be graded: " + ", ".join(f"{why} {n:.1%}" for why, n in ungraded.items()))
    lines += watched(summary)
    lines.append(f"used: {used(summary)}")
    if adapter.lineage["parents"]:
        from tunesmith.train import cost

        lines.append(f"with all that it was made from: {used(cost.lineage(shop.workspace, adapter))}")
    terminal.result({"adapter": str(adapter), "path": str(adapter.path), **summary}, "\n".join(lines))


def held_out(found: Mapping[str, Any]) -> str:
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


def used(cost: Mapping[str, Any]) -> str:
    """A run's cost in one line."""
    gpu = f", {cost['gpu_seconds']:,.0f} GPU-seconds" if cost["gpu_seconds"] else ""
    minutes = f"; {cost['label_minutes']:,.1f} label minutes" if cost.get("label_minutes") else ""
    return (f"{cost['tokens']:,} tokens, {cost['seconds']:,.0f} s, {cost['core_seconds']:,.0f} core-seconds{gpu}, "
            f"{cost['kwh']:.4g} kWh, {cost['co2_grams']:.3g} g CO2 ({cost['energy']}){minutes}")


def collect(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    chosen = command.settings
    name = chosen.name or chosen.prompts
    made = rounds.collect(open_shop(command, terminal), chosen)
    terminal.result({"set": name, "groups": made},
                    f"{made} groups of {chosen.answers} answers in {name}; rank them: tunesmith studio --groups {name}")


def evaluate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import evaluation

    made = evaluation.evaluate(open_shop(command, terminal), command.settings)
    terminal.result(made.report, "\n".join([*made.verdict, f"report: {made.path}"]))
    gate = made.report.get("gate")
    if gate and not gate["passed"]:
        broken = [f"{r['rule']} (found {r['found']})" for r in gate["rules"] if not r["passed"]]
        raise GateClosed(f"the gate is not passed: {'; '.join(broken)}")


def quickstart(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.quickstart import story

    made = story.run(open_shop(command, terminal), command.settings, terminal)
    terminal.result(made.report, "\n".join(["", *made.verdict, f"report: {made.path}"]))


def migrate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import migrate, rounds

    chosen, shop = command.settings, open_shop(command, terminal)
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


def runs(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds
    from tunesmith.train import cost

    shop = open_shop(command, terminal)
    if command.action == "ls":
        rows = [{"run": r.id, "command": r.command, "status": r.status, "created": r.created,
                 "adapter": r.summary.get("adapter", "")} for r in shop.workspace.runs()]
        return terminal.result({"runs": rows}, table(rows))
    run = shop.workspace.run(which(command))
    if command.action == "resume":
        return published(shop, rounds.resume(shop, run), terminal)
    shown = {"run": run.id, "command": run.command, "status": run.status, "seed": run.seed, "inputs": dict(run.inputs),
             "settings": dict(run.settings), "summary": dict(run.summary), "last": (run.metrics() or [{}])[-1],
             "used so far": cost.total(run.usage())}
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def doctor(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import doctor

    found = doctor.examine(command.workspace)
    terminal.result({"checks": found}, table(found))
