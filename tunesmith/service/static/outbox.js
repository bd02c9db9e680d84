// Verdicts on their way to the server. Each waits in localStorage (ids, order and the person's own notes, no text of the
// data), so that neither a lost connection nor a closed tab loses one: the next page of this person sends it. A page
// keeps its own ones in memory too, until it has heard itself what became of them: storage may be full or forbidden,
// and another tab may have sent one meanwhile. Every person has an outbox of their own.

import { LONGEST_WAIT, pause, person, post } from "./post.js";

const prefix = `tunesmith.outbox/${encodeURIComponent(person)}/`;
const memory = new Map();
const listeners = [];

// {id, at, body, problem}: `problem` says why it was refused; it then stays until the person has seen it.
function entries() {
  const found = new Map();
  try {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(prefix))) {
      const entry = JSON.parse(localStorage.getItem(key));
      found.set(entry.id, entry);
    }
  } catch {
    // memory holds what this page made
  }
  for (const [id, entry] of memory) found.set(id, entry);
  return [...found.values()].sort((a, b) => a.at - b.at);
}

function keep(entry) {
  memory.set(entry.id, entry);
  try {
    localStorage.setItem(prefix + entry.id, JSON.stringify(entry));
  } catch {
    // memory holds it
  }
}

export function forget({ id }) {
  memory.delete(id);
  try {
    localStorage.removeItem(prefix + id);
  } catch {
    // it was never there
  }
  changed();
}

const changed = () => document.dispatchEvent(new Event("outbox"));

export const unsent = () => entries().filter((entry) => !entry.problem);
export const refused = () => entries().filter((entry) => entry.problem);
export const waiting = (group) => unsent().some((entry) => entry.body.group === group);

// `listener(body, outcome)` hears of each attempt, and returns true if it told the person why one was refused.
export const listen = (listener) => listeners.push(listener);

export function add(body) {
  keep({ id: body.id, at: Date.now(), body });
  changed();
  flush();
}

// Send all that waits, again and again until none does.
let flushing = false;
let wake = () => {};
export async function flush() {
  if (flushing) return wake();
  flushing = true;
  try {
    for (let wait = 1000; unsent().length; wait = Math.min(wait * 2, LONGEST_WAIT)) {
      if (await sendAll()) continue;
      const rest = pause(wait);
      wake = rest.wake;
      await rest.over;
    }
  } finally {
    flushing = false;
  }
}

// Whether the server answered for each of them: one that it cannot take now does not stop the others.
async function sendAll() {
  let all = true;
  for (const entry of unsent()) {
    const outcome = await post("/api/rankings", entry.body);
    if (!outcome.later) forget(entry);
    const told = listeners.map((listener) => listener(entry.body, outcome)).some(Boolean);
    if (outcome.refused && !told) keep({ ...entry, problem: outcome.refused });
    changed();
    all &&= !outcome.later;
    if (outcome.offline) break;
  }
  return all;
}

addEventListener("storage", (event) => {
  if (event.key?.startsWith(prefix) && !event.newValue) wake(); // another tab sent one; if it is ours, we ask too
});
