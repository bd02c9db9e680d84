// What a verdict may say beside the order: flags and a rating per answer, how clearly the best wins, a note.

const NOTE = "other: ";

export function extras(cards) {
  const margins = [...document.querySelectorAll("[name=margin]")];
  const note = document.getElementById("note");
  const of = (card, what) => [...card.querySelectorAll(what)];
  const other = (card) => card.querySelector(".other");

  function flagsOf(card) {
    const kinds = of(card, ".flag:checked").map((box) => box.value);
    const said = other(card).value.trim();
    return said ? [...kinds, NOTE + said] : kinds;
  }

  function read() {
    const flags = Object.fromEntries([...cards].map(([answer, card]) => [answer, flagsOf(card)]).filter(([, f]) => f.length));
    const ratings = [...cards].map(([answer, card]) => [answer, of(card, ".rate:checked")[0]?.value])
      .filter(([, value]) => value).map(([answer, value]) => [answer, Number(value)]);
    return {
      flags,
      ratings: Object.fromEntries(ratings),
      margin: Number(margins.find((box) => box.checked)?.value ?? 0),
      rationale: note.value.trim(),
    };
  }

  function write({ flags = {}, ratings = {}, margin = 0, rationale = "" }) {
    for (const [answer, card] of cards) {
      const given = flags[answer] ?? [];
      of(card, ".flag").forEach((box) => { box.checked = given.includes(box.value); });
      other(card).value = given.find((flag) => flag.startsWith(NOTE))?.slice(NOTE.length) ?? "";
      of(card, ".rate").forEach((box) => { box.checked = Number(box.value) === ratings[answer]; });
      summary(card);
    }
    margins.forEach((box) => { box.checked = Number(box.value) === margin; });
    note.value = rationale;
    if (rationale) note.closest("details").open = true;
  }

  // Flags stay in sight when their list is closed.
  function summary(card) {
    const given = flagsOf(card).map((flag) => flag.replace(NOTE, ""));
    card.querySelector(".flags").classList.toggle("on", given.length > 0);
    card.querySelector(".flags .given").textContent = given.length ? given.join(", ") : "Report a problem";
  }

  // Empty margins are told apart from chosen ones by a second click, which takes a choice back.
  function clearable(box) {
    let was = false;
    box.closest("label").addEventListener("pointerdown", () => { was = box.checked; });
    box.addEventListener("click", () => {
      if (was) box.checked = false;
      was = false;
      box.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  for (const [, card] of cards) card.addEventListener("input", () => summary(card));
  document.querySelectorAll(".rate, [name=margin]").forEach(clearable);
  return { read, write };
}
