// Rankings on their way to the server. They wait in localStorage (ids, order and the person's own notes, no text of the
// data), so that neither a lost connection nor a closed tab loses one. The server knows each by its id: sending twice
// stores once. Every person has an outbox of their own: nobody sends what another one judged on the same machine.

const LONGEST_WAIT = 15_000;
let key = "tunesmith.outbox";
let memory = []; // where localStorage is switched off

export const own = (person) => { key = `tunesmith.outbox.${person}`; };

function read() {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "[]");
  } catch {
    return memory;
  }
}

function write(entries) {
  memory = entries;
  try {
    if (entries.length) localStorage.setItem(key, JSON.stringify(entries));
    else localStorage.removeItem(key);
  } catch {
    // memory holds them
  }
}

const drop = (id) => write(read().filter((entry) => entry.id !== id));

export const add = (entry) => write([...read(), entry]);
export const waiting = (group) => read().some((entry) => entry.group === group);

// What became of one entry: {saved}, {refused: message} (it will never be taken), {conflict: message, newest} (others or
// another window were faster) or {later: message}.
async function send(entry) {
  let response;
  try {
    response = await fetch("/api/rankings", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(entry),
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    return { later: "the server cannot be reached" };
  }
  if (response.ok) return { saved: true };
  const body = await response.json().catch(() => ({}));
  const problem = body.error?.message ?? response.statusText;
  if (response.status === 401) return { later: "you are signed out. Sign in again in another tab" };
  if (response.status === 409) return { conflict: problem, newest: body.newest };
  return response.status >= 500 || response.status === 429 ? { later: problem } : { refused: problem };
}

// Send all that waits, again and again until none does. `report(entry, outcome)` hears of each attempt.
let flushing = false;
let wake = () => {};
export async function flush(report) {
  if (flushing) return wake();
  flushing = true;
  for (let wait = 1000; read().length; ) {
    const [entry] = read();
    const outcome = await send(entry);
    if (!outcome.later) drop(entry.id);
    report(entry, outcome);
    if (outcome.later) {
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, wait);
      });
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }
  flushing = false;
}

addEventListener("online", () => wake());
