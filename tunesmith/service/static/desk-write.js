// Writing a demonstration: turns that can be added and taken away, kept in the tab until they are saved.

import { work } from "./kept.js";
import { newId } from "./post.js";
import { send } from "./send.js";

const byId = (id) => document.getElementById(id);
const form = byId("composer");
const turns = byId("turns");
const desk = form.dataset.desk;
const kept = `writing.${desk}`;
let saving = false;

const fieldOf = (turn) => turn.querySelector("textarea");
const written = () => [...turns.children].map((turn) => ({ role: turn.dataset.role, content: fieldOf(turn).value }));
const anything = () => written().some((turn) => turn.content.trim());

function status(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

// ---- turns

function addFollowUp() {
  const added = byId("follow-up").content.cloneNode(true);
  const [first] = added.children;
  turns.append(added);
  return first;
}

function addSystem() {
  turns.prepend(byId("system").content.cloneNode(true));
  byId("add-system").hidden = true;
  return turns.firstElementChild;
}

function remove(turn) {
  if (turn.dataset.role === "system") byId("add-system").hidden = false;
  else turn.previousElementSibling.remove(); // a follow-up is two turns
  turn.remove();
  keep();
  fieldOf(turns.lastElementChild).focus();
}

function keep() {
  work.remember(kept, anything() ? JSON.stringify(written()) : "");
}

function fill(messages) {
  for (const { role, content } of messages) {
    if (role === "system") fieldOf(addSystem()).value = content;
  }
  const rest = messages.filter((message) => message.role !== "system");
  const places = () => [...turns.children].filter((turn) => turn.dataset.role !== "system");
  while (places().length < rest.length) addFollowUp();
  rest.forEach((message, n) => { fieldOf(places()[n]).value = message.content; });
}

function clear() {
  for (const turn of [...turns.children].slice(turns.firstElementChild.dataset.role === "system" ? 3 : 2)) turn.remove();
  for (const turn of turns.children) if (turn.dataset.role !== "system") fieldOf(turn).value = "";
  work.remember(kept, "");
}

// ---- saving

async function save() {
  if (saving) return;
  const messages = written();
  const empty = [...turns.children].find((turn) => !fieldOf(turn).value.trim());
  if (empty) {
    status("This turn is still empty.", "bad");
    return fieldOf(empty).focus();
  }
  const id = newId();
  hold(true);
  status("Saving …");
  const outcome = await send(`/api/desk/${encodeURIComponent(desk)}/drafts`, { id, messages },
    (text) => status(text, "warn"));
  hold(false);
  if (outcome.refused) return status(`Not saved: ${outcome.refused}`, "bad");
  clear();
  byId("last").href = outcome.data.url;
  byId("last").hidden = false;
  status("Saved. Write the next one.", "good");
  fieldOf([...turns.children].find((turn) => turn.dataset.role === "user")).focus();
}

function hold(on) {
  saving = on;
  form.inert = on;
  byId("save").inert = on;
}

// ---- start

form.addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
form.addEventListener("input", () => {
  keep();
  if (byId("status").className === "bad") status("");
});
form.addEventListener("click", (event) => {
  const button = event.target.closest(".remove");
  if (button) remove(button.closest(".turn"));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  save();
});
byId("add-turns").addEventListener("click", () => fieldOf(addFollowUp()).focus());
byId("add-system").addEventListener("click", () => fieldOf(addSystem()).focus());
addEventListener("beforeunload", (event) => { if (anything() && [...turns.children].some((t) => t.dataset.role !== "system" && fieldOf(t).value)) event.preventDefault(); });
const before = JSON.parse(work.recall(kept) || "null");
if (before) {
  fill(before);
  status("What you wrote before is still here, not saved yet.", "warn");
}
fieldOf([...turns.children].find((turn) => turn.dataset.role === "user")).focus();
document.documentElement.dataset.ready = "yes";
