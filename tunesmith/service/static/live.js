// Asking models and watching them write: server-sent events over fetch, so that leaving or Stop ends the writing.

import { work } from "./kept.js";

const byId = (id) => document.getElementById(id);
const form = byId("asking");
const fields = form ? [...form.querySelectorAll("textarea")] : [];
const taken = fields.length > 1 || fields[0]?.value;
let asking = null; // the AbortController of the question that is being answered

function status(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = kind;
}

function question() {
  const chosen = byId("model")?.value;
  return {
    messages: fields.map((field) => ({ role: field.dataset.role, content: field.value })),
    answers: Number(byId("count").value),
    models: chosen ? [chosen] : [],
    set: byId("set")?.value.trim() || form.dataset.set,
    max_tokens: Number(byId("length").value),
    temperature: Number(byId("variety").value),
  };
}

// ---- what is written

function makeCards(count) {
  byId("written").replaceChildren();
  for (let n = 0; n < count; n += 1) {
    const card = byId("one").content.cloneNode(true);
    card.querySelector("b").textContent = `Answer ${n + 1}`;
    card.querySelector("span").textContent = "waiting";
    byId("written").append(card);
  }
}

function take(event) {
  if (event.error) throw new Error(event.error.message);
  if (event.group) return finish(event);
  const card = byId("written").children[event.answer];
  if (event.end) card.querySelector("span").textContent = "written";
  else {
    card.querySelector("span").textContent = "writing …";
    card.querySelector(".text").append(event.text); // a text node, whatever it holds
  }
}

function finish({ next, answers }) {
  const asked = byId("written").children.length;
  status(answers < asked ? `${answers} different answers, stored.` : "Stored.", "good");
  byId("next").href = next;
  byId("next").hidden = false;
  byId("next").focus();
  work.remember("asked", "");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) if (frame.startsWith("data: ")) yield JSON.parse(frame.slice(6));
  }
}

async function ask() {
  if (asking) return;
  const empty = fields.find((field) => !field.value.trim());
  if (empty) {
    status("Write a question first.", "bad");
    return empty.focus();
  }
  asking = new AbortController();
  const body = question();
  makeCards(body.answers);
  hold(true);
  status("The models write …");
  try {
    await follow(body, asking.signal);
  } catch (error) {
    status(asking.signal.aborted ? "Stopped. Nothing was stored." : `Nothing was stored. ${error.message}`, asking.signal.aborted ? "" : "bad");
    for (const card of byId("written").children) card.querySelector("span").textContent = "";
  }
  asking = null;
  hold(false);
}

async function follow(body, signal) {
  let response;
  try {
    response = await fetch("/api/live", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw new Error((await response.json().catch(() => null))?.error?.message ?? `The server answered ${response.status}.`);
  let stored = false;
  for await (const event of events(response.body)) {
    take(event);
    stored ||= Boolean(event.group);
  }
  if (!stored) throw new Error("The connection broke.");
}

function hold(on) {
  byId("ask").hidden = on;
  byId("stop").hidden = !on;
  if (on) {
    byId("next").hidden = true;
    byId("stop").focus();
  } else if (byId("next").hidden) byId("ask").focus();
  for (const field of fields) field.readOnly = on;
}

// ---- start

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => asking?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && asking) asking.abort();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
    else return;
    event.preventDefault();
  });
  if (!taken) {
    fields[0].value = work.recall("asked") || "";
    fields[0].addEventListener("input", () => work.remember("asked", fields[0].value));
  }
}
document.documentElement.dataset.ready = "yes";
