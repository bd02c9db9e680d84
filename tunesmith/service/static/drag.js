// Dragging a card by its handle, with mouse, pen or finger. The cards stay where they are and readable until the drop:
// a small tag with the card's name follows the pointer, a line shows the gap it would go to, an outline the card it
// would tie with. Only the handle has touch-action: none, so that a finger anywhere else scrolls the page.

const EDGE = 72; // px from the top or bottom of the window where dragging scrolls
const TIE_ZONE = 0.3; // the share at a card's top and bottom that means "beside", not "tie"

// `drop(answer, {gap} | {on})` hears of every completed drag.
export function enableDrag(list, drop) {
  list.addEventListener("pointerdown", (down) => {
    const handle = down.target.closest(".handle");
    if (!handle || down.button !== 0 || list.closest("[inert]")) return;
    down.preventDefault();
    drag(list, handle, down, drop);
  });
}

function drag(list, handle, down, drop) {
  const card = handle.closest(".card");
  const others = [...list.children].filter((c) => c !== card);
  const tag = document.body.appendChild(document.createElement("div"));
  tag.className = "tag";
  let { clientX: x, clientY: y } = down;
  let target = null;
  let frame = 0;

  const step = () => {
    scrollWhenAtEdge(y);
    target = targetAt(card, others, y);
    mark(others, target);
    tag.textContent = caption(card, others, target);
    tag.style.transform = `translate(${Math.min(x + 14, innerWidth - tag.offsetWidth - 8)}px, ${y - 18}px)`;
    frame = requestAnimationFrame(step);
  };
  const move = (event) => {
    if (event.pointerId === down.pointerId) ({ clientX: x, clientY: y } = event);
  };
  const end = (event) => {
    if (event.pointerId !== undefined && event.pointerId !== down.pointerId) return;
    const landed = event.type === "pointerup";
    if (landed) target = targetAt(card, others, event.clientY);
    cancelAnimationFrame(frame);
    stop.abort();
    tag.remove();
    card.classList.remove("dragging");
    list.classList.remove("sorting");
    mark(others, null);
    if (landed && target) drop(Number(card.dataset.answer), target);
  };
  const stop = new AbortController();
  const listen = (on, type, heard) => on.addEventListener(type, heard, { signal: stop.signal });
  listen(handle, "pointermove", move);
  listen(handle, "pointerup", end);
  listen(handle, "pointercancel", end);
  listen(window, "keydown", (event) => event.key === "Escape" && end(event));
  handle.setPointerCapture(down.pointerId);
  card.focus({ preventScroll: true });
  card.classList.add("dragging");
  list.classList.add("sorting");
  frame = requestAnimationFrame(step);
}

// Where a card would land: {gap} in the order of the others, {on: answer} to tie, or null over its own place.
function targetAt(card, others, y) {
  const home = card.getBoundingClientRect();
  if (y >= home.top && y <= home.bottom) return null;
  for (let gap = 0; gap < others.length; gap += 1) {
    const box = others[gap].getBoundingClientRect();
    const beside = box.height * TIE_ZONE;
    if (y < box.top + beside) return { gap };
    if (y < box.bottom - beside) return { on: Number(others[gap].dataset.answer) };
  }
  return { gap: others.length };
}

function caption(card, others, target) {
  const partner = others.find((other) => Number(other.dataset.answer) === target?.on);
  return `Answer ${card.dataset.name}${partner ? `: tie with ${partner.dataset.name}` : ""}`;
}

function mark(others, target) {
  others.forEach((card, place) => {
    card.classList.toggle("drop-before", target?.gap === place);
    card.classList.toggle("drop-after", target?.gap === others.length && place === others.length - 1);
    card.classList.toggle("drop-on", target?.on === Number(card.dataset.answer));
  });
}

function scrollWhenAtEdge(y) {
  const bar = document.getElementById("actions")?.offsetHeight ?? 0;
  const up = Math.max(0, EDGE - y);
  const down = Math.max(0, y - (innerHeight - bar - EDGE));
  if (up || down) scrollBy(0, (down - up) / 5);
}
