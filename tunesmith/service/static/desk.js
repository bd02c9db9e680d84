// One draft of the demonstration desk: read, edit, accept, reject; then on to the next that waits.

import { ask } from "./dialogs.js";
import { settings, work } from "./kept.js";
import { newId } from "./post.js";
import { send } from "./send.js";

const byId = (id) => document.getElementById(id);
const draft = byId("draft").dataset;
const fields = [...document.querySelectorAll("[data-turn] textarea")];
const acts = fields.length > 0;
const letters = byId("letters");
const kept = `edit.${draft.id}.${draft.seen}`;
let editing = false;
let saving = false;

const turnOf = (field) => field.closest("[data-turn]").dataset.turn;
const changed = () => fields.filter((field) => field.value !== field.defaultValue);

function status(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

// ---- editing

function edit(on) {
  if (!acts || saving || editing === on) return;
  editing = on;
  document.documentElement.classList.toggle("editing-draft", on);
  for (const field of fields) {
    field.hidden = !on;
    field.previousElementSibling.hidden = on;
  }
  for (const button of document.querySelectorAll(".reading")) button.hidden = on;
  for (const button of document.querySelectorAll(".editing")) button.hidden = !on;
  status("");
  if (on) {
    const answer = fields.at(-1);
    answer.focus();
    answer.setSelectionRange(answer.value.length, answer.value.length);
  } else byId("edit").focus();
}

// A second press drops a changed text; the first only warns.
let warned = false;
function drop() {
  if (saving) return;
  if (changed().length && !warned) {
    warned = true;
    return status("Your edit is not saved. Press again to drop it.", "warn");
  }
  warned = false;
  for (const field of fields) field.value = field.defaultValue;
  work.remember(kept, "");
  edit(false);
}

function keep() {
  warned = false;
  const edits = Object.fromEntries(changed().map((field) => [turnOf(field), field.value]));
  work.remember(kept, Object.keys(edits).length ? JSON.stringify(edits) : "");
}

function restore() {
  const edits = JSON.parse(work.recall(kept) || "{}");
  const found = fields.filter((field) => turnOf(field) in edits);
  if (!found.length) return;
  for (const field of found) field.value = edits[turnOf(field)];
  edit(true);
  status("Your edit from before is still here, not saved yet.", "warn");
}

// ---- deciding

async function decide(verdict, what, { reasons = [], note = "" } = {}) {
  if (saving) return;
  const edits = Object.fromEntries((editing ? changed() : []).map((field) => [turnOf(field), field.value]));
  if (Object.values(edits).some((text) => !text.trim())) return status("A turn cannot be empty.", "bad");
  const id = newId();
  hold(true);
  status("Saving …");
  const body = { id, verdict, reasons, note, edits, seen: Number(draft.seen) };
  const url = `/api/desk/${encodeURIComponent(draft.desk)}/drafts/${encodeURIComponent(draft.id)}/reviews`;
  const outcome = await send(url, body, (text) => status(text, "warn"));
  hold(false);
  if (outcome.refused) return status(`Not saved: ${outcome.refused}`, "bad");
  work.remember(kept, "");
  for (const field of fields) field.defaultValue = field.value; // nothing is unsaved any more
  work.remember("decided", JSON.stringify({ what, url: location.pathname }));
  if (verdict === "pending") location.reload();
  else location.assign(outcome.data.next ?? `/desk/${encodeURIComponent(draft.desk)}?done=1`);
}

function hold(on) {
  saving = on;
  byId("actions").inert = on;
  for (const field of fields) field.readOnly = on;
}

const accept = () => decide("accepted", "Accepted");

function save() {
  if (!editing) return;
  if (!draft.revises) return decide("accepted", changed().length ? "Edited and accepted" : "Accepted");
  if (changed().length) return decide("pending", "Changed");
  edit(false);
}

async function reject() {
  const dialog = byId("rejecting");
  if ((await ask(dialog)) !== "reject") return;
  const reasons = [...dialog.querySelectorAll("[name=reason]:checked")].map((box) => box.value);
  decide("rejected", "Rejected", { reasons, note: byId("note").value });
}

// ---- the dialog: a reason is needed, and "other" says which

function setUpRejecting(dialog) {
  const boxes = [...dialog.querySelectorAll("[name=reason]")];
  const note = byId("note");
  const complain = (text, where) => {
    byId("missing").textContent = text;
    where.focus();
  };
  dialog.querySelector("form").addEventListener("submit", (event) => {
    if (event.submitter && event.submitter.value !== "reject") return;
    const chosen = boxes.filter((box) => box.checked);
    const other = chosen.some((box) => box.value === "other") && !note.value.trim();
    if (chosen.length && !other) return;
    event.preventDefault();
    if (other) complain("Say what is wrong.", note);
    else complain("Choose at least one reason.", boxes[0]);
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target === note) {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) dialog.querySelector("[value=reject]").click();
      return;
    }
    const box = boxes[Number(event.key) - 1];
    if (!box || !letters.checked || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    box.checked = !box.checked;
    box.focus();
    byId("missing").textContent = "";
  });
}

// ---- keys

const press = (id) => {
  const button = byId(id);
  if (!button || button.hidden) return false;
  button.click();
  return true;
};
const KEYS = { a: "accept", r: "reject", e: "edit", n: "next", p: "previous", u: "undo", arrowright: "next", arrowleft: "previous" };

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && editing) save();
  else if (event.key === "Escape" && editing) drop();
  else if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  else if (editing || event.target.matches("input, textarea") || (letters && !letters.checked)) return;
  else if (event.key === "?") help();
  else if (!Object.hasOwn(KEYS, event.key.toLowerCase()) || !press(KEYS[event.key.toLowerCase()])) return;
  event.preventDefault();
});

function help() {
  const panel = byId("help");
  if (!panel) return;
  panel.open = !panel.open;
  if (panel.open) panel.querySelector("summary").focus();
}

// ---- start

if (acts) {
  byId("accept")?.addEventListener("click", accept);
  byId("reject")?.addEventListener("click", reject);
  byId("put-back")?.addEventListener("click", () => decide("pending", "Put back"));
  byId("edit").addEventListener("click", () => edit(true));
  byId("drop").addEventListener("click", drop);
  byId("save").addEventListener("click", save);
  for (const field of fields) field.addEventListener("input", keep);
  addEventListener("beforeunload", (event) => { if (changed().length) event.preventDefault(); });
  if (byId("rejecting")) setUpRejecting(byId("rejecting"));
  letters.checked = settings.recall("letters") !== "off";
  letters.addEventListener("change", () => settings.remember("letters", letters.checked ? "on" : "off"));
  byId("help").open = matchMedia("(min-width: 62rem)").matches;
  const last = JSON.parse(work.recall("decided") || "null");
  work.remember("decided", "");
  if (last) {
    const here = last.url === location.pathname;
    status(here ? `${last.what}.` : `${last.what}. Here is the next one.`, "good");
    byId("undo").hidden = here;
    byId("undo").href = last.url;
  }
  restore();
}
document.documentElement.dataset.ready = "yes";
