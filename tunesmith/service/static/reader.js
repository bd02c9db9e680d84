// Two or three answers side by side, each scrolling on its own. Places are changed here as on the page itself.

const MOST = 3;

// `move(answer, step)` moves an answer up (-1) or down (1); `where(answer)` says where it stands; `letters` is the switch
// of the single-letter keys.
export function reader(dialog, cards, { move, where, order, letters }) {
  const columns = dialog.querySelector(".side-by-side");
  const chips = [...dialog.querySelectorAll(".chip input")];
  let chosen = [];

  function draw() {
    chips.forEach((chip) => {
      chip.checked = chosen.includes(Number(chip.value));
      chip.disabled = (chip.checked && chosen.length === 1) || (!chip.checked && chosen.length === MOST);
    });
    columns.dataset.count = chosen.length;
    columns.replaceChildren(...chosen.map(column));
  }

  function column(answer) {
    const card = cards.get(answer);
    const part = dialog.querySelector("template").content.firstElementChild.cloneNode(true);
    part.dataset.answer = answer;
    part.querySelector("h3").textContent = `Answer ${card.dataset.name}`;
    part.querySelector(".where").textContent = where(answer);
    part.setAttribute("aria-label", `Answer ${card.dataset.name}`);
    part.querySelector(".page").append(card.querySelector(".texts").cloneNode(true));
    for (const [name, step] of [["up", -1], ["down", 1]]) {
      const button = part.querySelector(`.${name}`);
      button.setAttribute("aria-label", `Move answer ${card.dataset.name} ${name}`);
      button.addEventListener("click", () => shift(answer, step));
    }
    return part;
  }

  function shift(answer, step) {
    move(answer, step);
    columns.querySelectorAll(".column").forEach((part) => {
      part.querySelector(".where").textContent = where(Number(part.dataset.answer));
    });
  }

  function choose(answer) {
    if (!chosen.includes(answer)) chosen = [...chosen, answer].slice(-MOST);
    else if (chosen.length > 1) chosen = chosen.filter((a) => a !== answer);
    draw();
  }

  function show(answer) {
    if (!chosen.includes(answer)) choose(answer);
    columns.querySelector(`[data-answer="${answer}"] .page`).focus();
  }

  dialog.addEventListener("change", (event) => event.target.closest(".chip") && choose(Number(event.target.value)));
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !letters.checked) return;
    const named = [...cards].find(([, card]) => card.dataset.name === event.key.toUpperCase());
    const on = document.activeElement.closest(".column");
    if (named) show(named[0]);
    else if (on && "kj".includes(event.key)) shift(Number(on.dataset.answer), event.key === "k" ? -1 : 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return function open(answer) {
    const standing = order();
    const at = answer === null ? 0 : standing.indexOf(answer);
    const first = Math.min(at, Math.max(standing.length - 2, 0));
    chosen = standing.slice(first, first + 2);
    draw();
    dialog.showModal();
    columns.querySelector(".page").focus();
  };
}
