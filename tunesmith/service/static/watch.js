// How long somebody worked on this page, and how: seconds with the page in sight and something done within the last
// minute, moves, the time to the first one, how often they looked away, and with what they worked.

const IDLE = 60_000; // ms without a sign of life that still count as reading

export function watch(before = {}) {
  let seconds = before.seconds ?? 0;
  let last = performance.now();
  const trace = { moves: 0, away: 0, ...before.trace };
  const alive = () => {
    const now = performance.now();
    if (!document.hidden) seconds += Math.min(now - last, IDLE) / 1000;
    last = now;
  };
  const round = (x) => Math.round(x * 10) / 10;
  for (const sign of ["keydown", "pointerdown", "pointermove", "scroll", "wheel"])
    addEventListener(sign, alive, { passive: true, capture: true });
  addEventListener("keydown", () => { trace.device = "keyboard"; }, true);
  addEventListener("pointerdown", (event) => { trace.device = event.pointerType || "mouse"; }, true);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      seconds += Math.min(performance.now() - last, IDLE) / 1000;
      trace.away += 1;
    }
    last = performance.now();
  });
  return {
    moved() {
      alive();
      trace.moves += 1;
      trace.first_seconds ??= round(seconds);
    },
    opened(what) {
      trace[what] = (trace[what] ?? 0) + 1;
    },
    so_far() {
      alive();
      return { seconds: round(seconds), trace: { ...trace } };
    },
  };
}
