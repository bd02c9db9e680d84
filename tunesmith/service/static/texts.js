// Long answers: folded until asked for; Markdown as it looks or as it was written.

import { settings } from "./kept.js";

const FOLDED = 26; // rem; what is only a little longer is not folded
const SLACK = 1.25;

// `opened()` hears of every answer that is unfolded.
export function foldLong(cards, opened) {
  const limit = FOLDED * parseFloat(getComputedStyle(document.documentElement).fontSize);
  for (const card of cards) {
    const more = card.querySelector(".more");
    const long = card.querySelector(".texts").scrollHeight > limit * SLACK;
    more.hidden = !long;
    if (!long) continue;
    fold(card, true);
    more.addEventListener("click", () => {
      toggle(card);
      if (!card.classList.contains("folded")) opened();
      else card.scrollIntoView({ block: "nearest" });
    });
    card.querySelector(".texts").addEventListener("focusin", () => fold(card, false));
  }
}

function fold(card, on) {
  card.classList.toggle("folded", on);
  const more = card.querySelector(".more");
  more.setAttribute("aria-expanded", !on);
  more.querySelector("span").textContent = on ? `Show all ${more.dataset.words} words` : "Show less";
}

const toggle = (card) => fold(card, !card.classList.contains("folded"));

// Unfold or fold a card by key; false if it is short.
export function toggleFold(card) {
  if (card.querySelector(".more").hidden) return false;
  card.querySelector(".more").click();
  return true;
}

export function plainSwitch(box) {
  const apply = () => document.documentElement.classList.toggle("plain", box.checked);
  box.checked = settings.recall("plain") === "on";
  box.addEventListener("change", () => {
    settings.remember("plain", box.checked ? "on" : "");
    apply();
  });
  apply();
}
