// The cards as they stand: places, ties, the rest, and how each is called for those who hear the page.

import { inRest, lower, places, raise, tiedAbove, tierOf } from "./tiers.js";

const REST_FROM = 4; // answers; with fewer there is nothing to leave out

export function board(list) {
  const cards = new Map([...list.children].map((card) => [Number(card.dataset.answer), card]));
  const shown = [...cards.keys()];
  const nameOf = (answer) => cards.get(answer).dataset.name;

  function standing(tiers, rest, answer) {
    const at = tierOf(tiers, answer);
    if (inRest(tiers, answer, rest)) return "in the rest, not compared";
    const others = tiers[at].filter((a) => a !== answer).map(nameOf);
    const place = `place ${places(tiers)[at]} of ${shown.length}`;
    return others.length ? `${place}, tied with ${others.join(" and ")}` : place;
  }

  // "B > A = C > the rest"
  function words(tiers, rest, allBad = false) {
    const named = tiers.map((tier) => tier.map(nameOf).join(" = "));
    if (rest) named[named.length - 1] = "the rest";
    return named.join(" > ") + (allBad ? ", all bad" : "");
  }

  function show(tiers, rest) {
    const before = new Map([...cards].map(([answer, card]) => [answer, card.getBoundingClientRect().top]));
    const order = tiers.flat();
    const focused = document.activeElement;
    if (order.some((answer, i) => list.children[i] !== cards.get(answer))) {
      list.append(...order.map((answer) => cards.get(answer)));
      if (list.contains(focused)) focused.focus({ preventScroll: true });
    }
    const rank = places(tiers);
    order.forEach((answer, i) => showCard(answer, i, { tiers, rest, order, rank }));
    for (const [answer, card] of cards) glide(card, before.get(answer) - card.getBoundingClientRect().top);
  }

  function showCard(answer, i, { tiers, rest, order, rank }) {
    const card = cards.get(answer);
    const at = tierOf(tiers, answer);
    const joined = tiedAbove(tiers, answer);
    const left = inRest(tiers, answer, rest);
    card.classList.toggle("joined", joined);
    card.classList.toggle("joins", i + 1 < order.length && tiedAbove(tiers, order[i + 1]));
    card.classList.toggle("left-out", left);
    card.querySelector(".place").textContent = left ? "–" : tiers[at].length > 1 ? `=${rank[at]}` : rank[at];
    card.setAttribute("aria-label", `Answer ${nameOf(answer)}, ${standing(tiers, rest, answer)}`);
    const tie = card.querySelector(".tie");
    tie.hidden = i === 0 || left;
    tie.classList.toggle("on", joined);
    tie.querySelector("span").textContent = joined ? "Tied · split" : "Tie";
    tie.setAttribute("aria-pressed", joined);
    const stop = card.querySelector(".rest");
    stop.hidden = order.length < REST_FROM || (left ? joined : i === 0 || i > order.length - 2 || joined);
    stop.classList.toggle("on", left);
    stop.querySelector("span").textContent = left ? "The rest, not compared · undo" : "Stop here";
    stop.setAttribute("aria-pressed", left);
    card.querySelector(".up").setAttribute("aria-disabled", !left && raise(tiers, answer).join("|") === tiers.join("|"));
    card.querySelector(".down").setAttribute("aria-disabled", lower(tiers, answer, rest).join("|") === tiers.join("|"));
  }

  return { cards, shown, nameOf, standing, words, show };
}

function glide(card, from) {
  if (!from || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  card.animate([{ transform: `translateY(${from}px)` }, { transform: "none" }], { duration: 160, easing: "ease-out" });
}
