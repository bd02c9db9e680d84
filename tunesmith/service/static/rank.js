// The ranking page: keeps the tiers, hears hands and keys, and hands the verdict to the outbox.

import { board } from "./board.js";
import { keepClaim } from "./claim.js";
import { ask } from "./dialogs.js";
import { enableDrag } from "./drag.js";
import { extras } from "./extras.js";
import { settings, work } from "./kept.js";
import { meaning } from "./keys.js";
import * as outbox from "./outbox.js";
import { newId } from "./post.js";
import { reader } from "./reader.js";
import { foldLong, plainSwitch, toggleFold } from "./texts.js";
import { dropAt, dropOn, inRest, lower, raise, toggleRest, toggleTie } from "./tiers.js";
import { watch } from "./watch.js";

const byId = (id) => document.getElementById(id);
const list = byId("answers");
const task = list.dataset; // group, token, lease, labeler, revises, back, guidelines, critique
const { cards, shown, nameOf, standing, words, show } = board(list);
const said = extras(cards);
const allBad = byId("all-bad");
const letters = byId("letters");
const kept = `draft.${task.labeler}.${task.revises || task.group}`;

let tiers = shown.map((answer) => [answer]);
let rest = false;
let touched = false;
let keyboard = false; // was the last thing done by key?
let past = []; // for Ctrl+Z

const say = (text) => { byId("announce").textContent = text; };

function status(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

// ---- ranking

function change(answer, next, nextRest = rest) {
  const settled = nextRest && next.at(-1).length > 1; // a rest of one answer is just the last place
  const same = next.join("|") === tiers.join("|") && settled === rest;
  if (!same) {
    past.push({ tiers, rest });
    clock.moved();
  }
  touched = true;
  [tiers, rest] = [next, settled];
  show(tiers, rest);
  cards.get(answer).scrollIntoView({ block: "nearest" });
  say(`Answer ${nameOf(answer)}${same ? " stays" : ""}: ${standing(tiers, rest, answer)}.`);
  keep();
}

function changeRest(answer) {
  const next = toggleRest(tiers, answer, rest);
  change(answer, next.tiers, next.rest);
}

function takeBack() {
  const last = past.pop();
  if (!last) return say("Nothing to take back.");
  [tiers, rest] = [last.tiers, last.rest];
  show(tiers, rest);
  say(`Taken back: ${words(tiers, rest)}.`);
  keep();
}

const isAllBad = () => allBad.getAttribute("aria-pressed") === "true";

function toggleAllBad() {
  const on = !isAllBad();
  allBad.setAttribute("aria-pressed", on);
  say(on ? "Marked: all answers are bad. Your order still counts." : "Not all are bad.");
  keep();
}

list.addEventListener("click", (event) => {
  const button = event.target.closest(".tie, .rest, .up, .down");
  if (!button) return;
  const answer = Number(button.closest(".card").dataset.answer);
  if (button.matches(".tie")) change(answer, toggleTie(tiers, answer, rest));
  else if (button.matches(".rest")) changeRest(answer);
  else if (button.getAttribute("aria-disabled") !== "true") step(answer, button.matches(".up") ? -1 : 1);
});
enableDrag(list, (answer, to) =>
  change(answer, "gap" in to ? dropAt(tiers, answer, to.gap, rest) : dropOn(tiers, answer, to.on)));
allBad.addEventListener("click", toggleAllBad);

const step = (answer, by) => change(answer, by < 0 ? raise(tiers, answer) : lower(tiers, answer, rest));

// ---- keys

const focusCard = (answer) => {
  cards.get(answer).focus({ preventScroll: true });
  cards.get(answer).scrollIntoView({ block: "nearest" });
};

let current = null; // the card that had the focus last
list.addEventListener("focusin", (event) => {
  current = Number(event.target.closest(".card").dataset.answer);
});

const WRITING = "textarea, input[type=text]";
const PRESSABLE = "button, a, input, summary, textarea";

function onKey(event) {
  keyboard = true;
  if (document.querySelector("dialog[open]")) return;
  const on = document.activeElement;
  const card = on?.closest?.(".card");
  const answer = card ? Number(card.dataset.answer) : null;
  const control = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && !event.repeat && (control || !on?.matches(PRESSABLE))) submit();
  else if (control && event.key === "z" && !on?.matches(WRITING)) takeBack();
  else if (event.key === "Escape" && on?.matches("input, textarea, summary") && current !== null) leave(on);
  else if (control) return;
  else if (event.key.startsWith("Arrow") && on === card && card) {
    if (!arrow(event, answer)) return;
  } else if (event.altKey || !letters.checked || on?.matches(WRITING)) return;
  else if (!letter(event, answer)) return;
  event.preventDefault();
}

// From a field back to the card; an opened list of flags closes.
function leave(on) {
  const open = on.closest("details.flags");
  if (open) open.open = false;
  focusCard(current);
}

function arrow(event, answer) {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!by) return false;
  const order = tiers.flat();
  if (event.altKey) step(answer, by);
  else focusCard(order[Math.min(Math.max(order.indexOf(answer) + by, 0), order.length - 1)]);
  return true;
}

// True if the key means something here.
function letter(event, answer) {
  const meant = meaning(event);
  if (!meant) return false;
  const named = shown.find((a) => nameOf(a) === meant.answer);
  const placed = tiers.flat()[meant.place - 1];
  if (meant.act) return act(meant.act, answer);
  if (meant.rate) return answer !== null && rate(answer, meant.rate);
  if (named === undefined && placed === undefined) return false;
  focusCard(named ?? placed);
  return true;
}

const ON_PAGE = {
  bad: toggleAllBad, skip: () => byId("skip")?.click(), undo: () => list.inert || byId("undo")?.click(), help, margin: focusMargin,
  note: () => open(byId("note").closest("details"), byId("note")), reader: () => openReader(),
};
const ON_CARD = {
  up: (answer) => step(answer, -1),
  down: (answer) => step(answer, 1),
  tie: (answer) => change(answer, toggleTie(tiers, answer, rest)),
  rest: changeRest,
  open: (answer) => toggleFold(cards.get(answer)),
  flag: (answer) => open(cards.get(answer).querySelector(".flags"), cards.get(answer).querySelector(".flag")),
};

function act(name, answer) {
  if (name in ON_PAGE) ON_PAGE[name]();
  else if (answer === null) return false;
  else ON_CARD[name](answer);
  return true;
}

function open(details, first) {
  details.open = true;
  first.focus();
}

function focusMargin() {
  (document.querySelector("[name=margin]:checked") ?? document.querySelector("[name=margin]"))?.focus();
}

function rate(answer, value) {
  const box = cards.get(answer).querySelector(`.rate[value="${value}"]`);
  if (!box) return false;
  box.click();
  say(`Answer ${nameOf(answer)}: ${value} of 7.`);
  return true;
}

function help() {
  const panel = byId("help");
  panel.open = !panel.open;
  if (panel.open) panel.querySelector("summary").focus();
}

document.addEventListener("keydown", onKey);
document.addEventListener("pointerdown", () => { keyboard = false; });

// ---- side by side

const openOn = reader(byId("reader"), cards, {
  move: step, where: (answer) => standing(tiers, rest, answer), order: () => tiers.flat(), letters,
});
function openReader() {
  if (!byId("side-by-side").offsetParent) return; // the window is too narrow for columns
  clock.opened("side_by_side");
  openOn(current);
}
byId("side-by-side").addEventListener("click", openReader);

// ---- unfinished work stays in this tab

function keep() {
  const state = { tiers, rest, touched, all_bad: isAllBad(), ...said.read(), ...clock.so_far() };
  work.remember(kept, JSON.stringify(state));
}

function restore() {
  const saved = JSON.parse(work.recall(kept) || task.verdict || "null");
  if (!saved || saved.tiers.flat().sort().join() !== [...shown].sort().join()) return null;
  ({ tiers, rest } = saved);
  touched = saved.touched ?? true;
  allBad.setAttribute("aria-pressed", Boolean(saved.all_bad));
  said.write(saved);
  return saved;
}

// ---- submitting

async function submit() {
  if (list.inert) return;
  const beside = said.read();
  const unrated = shown.filter((a) => Object.keys(beside.ratings).length && !(a in beside.ratings));
  if (unrated.length) {
    cards.get(unrated[0]).querySelector(".rate").focus();
    return status(`Rate every answer or none: ${unrated.map(nameOf).join(", ")} still without`, "warn");
  }
  if (!touched) {
    const choice = await ask(byId("unchanged"));
    if (!choice) return;
    if (choice === "equal") change(shown[0], [[...shown]], false);
  }
  post({
    tiers: rest ? tiers.slice(0, -1) : tiers, all_bad: isAllBad(), skipped: "", ...beside,
    ratings: unrated.length || !Object.keys(beside.ratings).length ? [] : [...shown].sort().map((a) => beside.ratings[a]),
  });
}

async function skip() {
  if (list.inert) return;
  if ((await ask(byId("skipping"))) !== "skip") return;
  const reason = document.querySelector("[name=reason]:checked")?.value ?? "No reason given";
  const own = byId("reason-other").checked && byId("reason-text").value.trim();
  post({ ...said.read(), ratings: [], margin: 0, tiers: [], all_bad: false, skipped: own || reason });
}

function post(verdict) {
  if (list.inert) return;
  const id = newId();
  const { seconds, trace } = clock.so_far();
  hold(true);
  status("Saving …");
  outbox.add({
    id, group: task.group, token: task.token, revises: task.revises,
    guidelines: Number(task.guidelines), shown, ...verdict,
    seconds, trace: task.critique ? { ...trace, critique: task.critique } : trace,
  });
}

const hold = (on) => {
  for (const part of [list, byId("extras"), allBad, byId("skip"), byId("undo"), byId("submit")]) if (part) part.inert = on;
};

// Of each attempt to send one, of this page or of an earlier one; true: its author knows why it was refused.
function heard(sent, outcome) {
  if (sent.group !== task.group || sent.revises !== task.revises) return false;
  if (outcome.later) status(`Not saved yet, will retry: ${outcome.later}`, "warn");
  else if (outcome.refused) {
    status(`Not saved: ${outcome.refused}`, "bad");
    if (outcome.status === 409) settle(outcome);
    else hold(false);
  } else {
    status("Saved", "good");
    if (!outbox.waiting(task.group)) next();
  }
  return true;
}

// Somebody was faster. What was done here stays on the page until its author decides.
async function settle({ refused, newest }) {
  hold(false);
  const dialog = byId("conflict");
  byId("conflict-why").textContent = refused;
  byId("conflict-mine").textContent = words(tiers, rest, isAllBad());
  byId("conflict-newest").parentElement.hidden = !newest;
  byId("conflict-newest").textContent = newest ? inWords(newest) : "";
  dialog.querySelector("[value=mine]").hidden = !newest;
  dialog.querySelector("[value=next]").textContent = newest ? "Keep the newer one" : "Go to the next one";
  const choice = await ask(dialog);
  if (choice === "next") next();
  else if (choice === "mine") {
    task.revises = newest.id;
    submit();
  }
}

function inWords({ tiers: theirs, skipped, all_bad }) {
  if (skipped) return `skipped: ${skipped}`;
  const left = shown.filter((answer) => !theirs.flat().includes(answer));
  return words(left.length ? [...theirs, left] : theirs, left.length > 0, all_bad);
}

function next() {
  finish();
  work.remember(kept, "");
  settings.remember("saved", keyboard ? "keyboard" : "pointer");
  location.replace(task.back);
}

byId("submit").addEventListener("click", submit);
byId("skip")?.addEventListener("click", skip);
byId("reason-text").addEventListener("input", () => { byId("reason-other").checked = true; });
document.addEventListener("input", (event) => event.target.closest("#answers, #extras") && keep());

// ---- start

const before = restore();
const clock = watch(task.revises ? {} : before ?? {});
letters.checked = settings.recall("letters") !== "off";
letters.addEventListener("change", () => settings.remember("letters", letters.checked ? "on" : "off"));
byId("help").open = matchMedia("(min-width: 62rem)").matches;
plainSwitch(byId("plain"));
foldLong([...cards.values()], () => clock.opened("unfolded"));
show(tiers, rest);
const finish = keepClaim(task.token, Number(task.lease), (why) => status(why, "warn"), () => outbox.waiting(task.group));
const saved = settings.recall("saved");
settings.remember("saved", "");
if (saved) status("Saved. Here is the next one.", "good");
else if (before && !task.revises) status("Your order of before is back.");
if (saved === "keyboard") focusCard(shown[0]);
if (outbox.waiting(task.group)) {
  hold(true);
  status("Saving …");
}
outbox.listen(heard);
outbox.flush();
document.documentElement.dataset.ready = "yes";
