// Tells POST /v1/feedback what users do with answers (docs/interactions.md).
// <p data-completion="chatcmpl-...">answer <button data-feedback="thumb" data-value="1">Good</button></p>
// <script src="feedback.js" data-to="https://models.example.com/v1/feedback"></script>
(() => {
  const to = document.currentScript?.dataset.to || "/v1/feedback";
  const on = addEventListener, seen = {};
  let waiting = [];
  const note = (completion, type, value = "") => {
    if (navigator.globalPrivacyControl) return;
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    waiting.push({ completion, type, value, at: new Date().toISOString(), id });
  };
  const send = async () => {
    const events = waiting.splice(0, 50);
    if (!events.length) return;
    const body = JSON.stringify({ events });
    const headers = { "content-type": "application/json" };
    try {
      const r = await fetch(to, { method: "POST", body, headers, keepalive: true, credentials: "omit" });
      if (r.status > 428) throw r;
    } catch {
      waiting.unshift(...events);
    }
  };
  const around = (node) => node?.parentElement?.closest("[data-completion]");
  on("click", (e) => {
    const b = e.target.closest("[data-feedback]"), a = around(b), v = b?.dataset.value || "";
    if (a) note(a.dataset.completion, b.dataset.feedback, v && !isNaN(v) ? +v : v);
  });
  on("copy", () => {
    const s = getSelection(), a = around(s.anchorNode), n = `${s}`.length;
    if (a && n) note(a.dataset.completion, "copy", Math.min(1, n / a.innerText.length));
  });
  setInterval(() => {
    if (document.hidden) return;
    for (const a of document.querySelectorAll("[data-completion]")) {
      const r = a.getBoundingClientRect(), c = a.dataset.completion;
      if (r.bottom > 0 && r.top < innerHeight) seen[c] = (seen[c] || 0) + 500;
    }
    send();
  }, 500);
  on("visibilitychange", () => {
    for (const c in document.hidden ? seen : {}) note(c, "dwell_ms", seen[c]), delete seen[c];
    send();
  });
  window.tunesmith = note;
})();
