// On every page of somebody who ranks: verdicts that still wait here are sent, and those that were refused are shown.

import * as outbox from "./outbox.js";

const part = document.getElementById("outbox");
const here = document.getElementById("answers")?.dataset.group; // the ranking page speaks for its own group
let why = "";

function draw() {
  const waiting = outbox.unsent().filter((entry) => entry.body.group !== here);
  const refused = outbox.refused();
  const [line, list] = part.children;
  const many = waiting.length > 1;
  line.textContent = waiting.length
    ? `${many ? `${waiting.length} verdicts wait` : "A verdict waits"} in this browser and will be sent${why ? `: ${why}` : ""}.` : "";
  list.replaceChildren(...refused.map(item));
  part.hidden = !waiting.length && !refused.length;
}

function item(entry) {
  const row = document.createElement("li");
  const button = document.createElement("button");
  const at = new Date(entry.at).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  button.type = "button";
  button.className = "button small";
  button.textContent = "I have seen it";
  button.addEventListener("click", () => outbox.forget(entry));
  row.append(`Your verdict of ${at} was not stored: ${entry.problem} `, button);
  return row;
}

outbox.listen((body, outcome) => {
  if (body.group !== here) why = outcome.later ?? "";
});
document.addEventListener("outbox", draw);
addEventListener("storage", draw);
draw();
outbox.flush();
