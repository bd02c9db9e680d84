// The ranking page: keeps the tiers, shows them, and hands the verdict to the outbox.

import { enableDrag } from "./drag.js";
import * as outbox from "./outbox.js";
import { dropAt, dropOn, lower, places, raise, tiedAbove, tierOf, toggleTie } from "./tiers.js";

const byId = (id) => document.getElementById(id);
const list = byId("answers");
const cards = new Map([...list.children].map((card) => [Number(card.dataset.answer), card]));
const shown = [...cards.keys()];
const nameOf = (answer) => cards.get(answer).dataset.name;
const allBad = byId("all-bad");
const letters = byId("letters");

let tiers = shown.map((answer) => [answer]);
let touched = false;
let keyboard = false; // was the last thing done by key?

// ---- small things kept between pages, where the browser allows it

function recall(name) {
  try {
    return localStorage.getItem(`tunesmith.${name}`) || "";
  } catch {
    return "";
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`tunesmith.${name}`, value);
  } catch {
    // then the next page starts without it
  }
}

// ---- showing

function show() {
  const before = new Map([...cards].map(([answer, card]) => [answer, card.getBoundingClientRect().top]));
  const order = tiers.flat();
  const focused = document.activeElement;
  if (order.some((answer, i) => list.children[i] !== cards.get(answer))) {
    list.append(...order.map((answer) => cards.get(answer)));
    if (list.contains(focused)) focused.focus({ preventScroll: true });
  }
  const rank = places(tiers);
  order.forEach((answer, i) => {
    const card = cards.get(answer);
    const at = tierOf(tiers, answer);
    const tied = tiers[at].length > 1;
    const joined = tiedAbove(tiers, answer);
    card.classList.toggle("joined", joined);
    card.classList.toggle("joins", i + 1 < order.length && tiedAbove(tiers, order[i + 1]));
    card.querySelector(".place").textContent = tied ? `=${rank[at]}` : rank[at];
    card.setAttribute("aria-label", `Answer ${nameOf(answer)}, ${standing(answer)}`);
    const tie = card.querySelector(".tie");
    tie.hidden = i === 0;
    tie.classList.toggle("on", joined);
    tie.querySelector("span").textContent = joined ? "Tied · split" : "Tie";
    tie.setAttribute("aria-pressed", joined);
    tie.setAttribute("aria-label", `Answer ${nameOf(answer)} tied with the one above`);
    card.querySelector(".up").setAttribute("aria-disabled", raise(tiers, answer).join("|") === tiers.join("|"));
    card.querySelector(".down").setAttribute("aria-disabled", lower(tiers, answer).join("|") === tiers.join("|"));
  });
  for (const [answer, card] of cards) glide(card, before.get(answer) - card.getBoundingClientRect().top);
}

function glide(card, from) {
  if (!from || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  card.animate([{ transform: `translateY(${from}px)` }, { transform: "none" }], { duration: 160, easing: "ease-out" });
}

function standing(answer) {
  const at = tierOf(tiers, answer);
  const place = `place ${places(tiers)[at]} of ${shown.length}`;
  const others = tiers[at].filter((a) => a !== answer).map(nameOf);
  return others.length ? `${place}, tied with ${others.join(" and ")}` : place;
}

const say = (text) => { byId("announce").textContent = text; };

function status(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

// ---- ranking

function change(answer, next) {
  touched = true;
  const same = next.join("|") === tiers.join("|");
  tiers = next;
  show();
  cards.get(answer).scrollIntoView({ block: "nearest" });
  say(same ? `Answer ${nameOf(answer)} stays: ${standing(answer)}.` : `Answer ${nameOf(answer)}: ${standing(answer)}.`);
}

function toggleAllBad() {
  const on = allBad.getAttribute("aria-pressed") !== "true";
  allBad.setAttribute("aria-pressed", on);
  say(on ? "Marked: all answers are bad. Your order still counts." : "Not all are bad.");
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const answer = Number(button.closest(".card").dataset.answer);
  if (button.matches(".tie")) change(answer, toggleTie(tiers, answer));
  else if (button.getAttribute("aria-disabled") !== "true")
    change(answer, button.matches(".up") ? raise(tiers, answer) : lower(tiers, answer));
});
enableDrag(list, (answer, to) =>
  change(answer, "gap" in to ? dropAt(tiers, answer, to.gap) : dropOn(tiers, answer, to.on)));
allBad.addEventListener("click", toggleAllBad);

// ---- keys

const focusCard = (answer) => {
  cards.get(answer).focus({ preventScroll: true });
  cards.get(answer).scrollIntoView({ block: "nearest" });
};

function onKey(event) {
  keyboard = true;
  if (event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const on = document.activeElement;
  const card = on?.closest?.(".card");
  const answer = card ? Number(card.dataset.answer) : null;
  if (event.key === "Enter" && !event.repeat && !on?.matches("button, a, input, summary")) submit();
  else if (event.key.startsWith("Arrow") && card) arrow(event, answer);
  else if (event.altKey || !letters.checked || on?.matches("input")) return;
  else if (!letter(event.key, answer)) return;
  event.preventDefault();
}

function arrow(event, answer) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  if (event.altKey) change(answer, step < 0 ? raise(tiers, answer) : lower(tiers, answer));
  else {
    const order = tiers.flat();
    focusCard(order[Math.min(Math.max(order.indexOf(answer) + step, 0), order.length - 1)]);
  }
}

// True if the key means something here.
function letter(key, answer) {
  const low = key.toLowerCase();
  const named = shown.find((a) => nameOf(a).toLowerCase() === low);
  const placed = /^[1-9]$/.test(key) ? tiers.flat()[Number(key) - 1] : undefined;
  if (named !== undefined) focusCard(named);
  else if (placed !== undefined) focusCard(placed);
  else if (low === "x") toggleAllBad();
  else if (low === "s") skip();
  else if (key === "?") help();
  else if (answer !== null && "kjt".includes(low) && low) change(answer, { k: raise, j: lower, t: toggleTie }[low](tiers, answer));
  else return false;
  return true;
}

function help() {
  const panel = byId("help");
  panel.open = !panel.open;
  if (panel.open) panel.querySelector("summary").focus();
}

document.addEventListener("keydown", onKey);
document.addEventListener("pointerdown", () => { keyboard = false; });

// ---- time looked at the page

let seconds = 0;
let since = document.hidden ? null : performance.now();
function tick() {
  if (since !== null) seconds += (performance.now() - since) / 1000;
  since = document.hidden ? null : performance.now();
}
document.addEventListener("visibilitychange", tick);

// ---- submitting

function ask(id) {
  const dialog = byId(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = new AbortController();
    dialog.addEventListener("close", () => {
      if (dialog.open) return; // a late event of the time before
      closed.abort();
      resolve(dialog.returnValue);
    }, { signal: closed.signal });
  });
}

async function submit() {
  if (list.inert) return;
  if (!touched) {
    const choice = await ask("unchanged");
    if (!choice) return;
    if (choice === "equal") change(shown[0], [[...shown]]);
  }
  post({ tiers, all_bad: allBad.getAttribute("aria-pressed") === "true", skipped: "" });
}

async function skip() {
  if (list.inert) return;
  if ((await ask("skipping")) !== "skip") return;
  post({ tiers: [], all_bad: false, skipped: document.querySelector("[name=reason]:checked")?.value ?? "No reason given" });
}

function post(verdict) {
  if (list.inert) return;
  tick();
  hold(true);
  status("Saving …");
  const id = crypto.randomUUID();
  outbox.add({ id, group: list.dataset.group, shown, ...verdict, seconds: Math.round(seconds * 10) / 10 });
  outbox.flush(heard);
}

const hold = (on) => {
  for (const part of [list, allBad, byId("skip"), byId("submit")]) part.inert = on;
};

function heard(entry, outcome) {
  const here = entry.group === list.dataset.group;
  if (outcome.later) status(`Not saved yet, will retry: ${outcome.later}`, "warn");
  else if (outcome.refused) {
    status(`Not saved: ${outcome.refused}`, "bad");
    if (here) hold(false);
  } else {
    status("Saved", "good");
    if (here && !outbox.waiting(entry.group)) next();
  }
}

function next() {
  remember("saved", keyboard ? "keyboard" : "pointer");
  location.replace(location.pathname);
}

byId("submit").addEventListener("click", submit);
byId("skip").addEventListener("click", skip);

// ---- start

letters.checked = recall("letters") !== "off";
letters.addEventListener("change", () => remember("letters", letters.checked ? "on" : "off"));
byId("help").open = matchMedia("(min-width: 62rem)").matches;
show();
const saved = recall("saved");
remember("saved", "");
if (saved) status("Saved. Here is the next one.", "good");
if (saved === "keyboard") focusCard(shown[0]);
if (outbox.waiting(list.dataset.group)) {
  hold(true);
  status("Saving …");
}
outbox.flush(heard);
document.documentElement.dataset.ready = "yes";
