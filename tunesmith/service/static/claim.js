// The right to judge one group for a while: kept alive while somebody looks at the page, given back when they leave.
// A verdict sent after it ran out is still taken if the place is free.

async function post(path, options = {}) {
  return fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: "{}", ...options });
}

// `lost(message)` hears that the claim has ended. While `sending()`, a verdict is on its way: leaving gives nothing back,
// the lease keeps the place for it. Returns a function that says: the work is done, do not give it back.
export function keepClaim(token, seconds, lost, sending) {
  if (!token) return () => {};
  let done = false;
  const beat = async () => {
    if (done || document.hidden) return;
    try {
      const response = await post(`/api/claims/${token}/heartbeat`);
      if (response.status !== 409 && response.status !== 404) return;
      const body = await response.json();
      if (!done) lost(body.error.message);
    } catch {
      // no connection: the outbox says so when it matters
    }
  };
  const every = setInterval(beat, Math.max(5, Math.min(60, seconds / 3)) * 1000);
  const finish = () => {
    done = true;
    clearInterval(every);
  };
  document.addEventListener("visibilitychange", beat);
  addEventListener("pagehide", () => {
    if (!done && !sending()) post(`/api/claims/${token}/release`, { keepalive: true }).catch(() => {});
  });
  addEventListener("pageshow", (event) => event.persisted && beat());
  if (performance.getEntriesByType("navigation")[0]?.type !== "navigate") beat(); // a reload may have given it back
  return finish;
}
