// Bringing a file: sent as it is, with progress; what was made of it, or what is wrong with it and where.

const byId = (id) => document.getElementById(id);
const form = byId("upload");
let named = false;

function status(text, kind = "") {
  byId("status").hidden = !text;
  byId("status").textContent = text;
  byId("status").className = `note ${kind}`;
}

// A name from the file's name, until somebody types another.
function suggest() {
  const file = byId("file").files[0];
  if (!file || named) return;
  byId("name").value = file.name.replace(/(\.[A-Za-z]+){1,2}$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "").slice(0, 64);
}

// fetch cannot tell how much was sent.
function post(url, file, progress) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    request.addEventListener("error", () => resolve({ status: 0, text: "" }));
    request.addEventListener("load", () => resolve({ status: request.status, text: request.responseText }));
    request.send(file);
  });
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function tell(made) {
  const left = Object.entries(made.skipped).map(([why, n]) => `${n} left out: ${why}`);
  const noted = Object.entries(made.notes).map(([what, n]) => `${n} times: ${what}`);
  const known = made.new < made.rows ? [`${made.rows - made.new} were here already`] : [];
  status([`${made.rows} ${made.kind} in ${made.name}, read as “${made.format}”`, ...known, ...left, ...noted].join("; ") + ".", "good");
  byId("after").hidden = !made.next;
  byId("next").href = made.next || "#";
  byId("next").textContent = { answers: "Rank them", prompts: "Let models answer one", demonstrations: "Review them" }[made.kind] ?? "Go on";
  if (made.next) byId("next").focus();
}

async function send(event) {
  event.preventDefault();
  const file = byId("file").files[0];
  const data = new FormData(form);
  const query = new URLSearchParams({ kind: data.get("kind"), name: data.get("name").trim(), file: file.name });
  byId("send").disabled = true;
  byId("after").hidden = true;
  byId("sent").hidden = false;
  byId("sent").value = 0;
  status("Sending …");
  const { status: code, text } = await post(`/api/uploads?${query}`, file, (share) => {
    byId("sent").value = share;
    if (share === 1) status("Reading …");
  });
  byId("send").disabled = false;
  byId("sent").hidden = true;
  const answer = read(text);
  if (code === 201 && answer) return tell(answer);
  status(code ? `Nothing was stored. ${answer?.error?.message ?? `The server answered ${code}.`}`
    : "Nothing was stored: the connection broke, or the file changed while it was read.", "bad");
}

form.addEventListener("submit", send);
byId("file").addEventListener("change", suggest);
byId("name").addEventListener("input", () => { named = byId("name").value !== ""; });
document.documentElement.dataset.ready = "yes";
