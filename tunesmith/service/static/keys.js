// Every single-letter key of the ranking page, in one place. A to I are the answers' names, 1 to 9 their places.

export const KEYS = {
  k: "up", j: "down", t: "tie", r: "rest", x: "bad", s: "skip", u: "undo",
  o: "open", v: "reader", p: "flag", m: "margin", n: "note", "?": "help",
};
const NAMES = "abcdefghi";

const clash = Object.keys(KEYS).find((key) => NAMES.includes(key));
if (clash) throw new Error(`the key ${clash} already names an answer`);

// What a keystroke means: {answer: name}, {place: n}, {rate: n} or {act: name}; null for anything else.
export function meaning(event) {
  const key = event.key.toLowerCase();
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (event.shiftKey && digit) return { rate: Number(digit[1]) };
  if (/^[1-9]$/.test(key)) return { place: Number(key) };
  if (key.length === 1 && NAMES.includes(key)) return { answer: key.toUpperCase() };
  return Object.hasOwn(KEYS, key) ? { act: KEYS[key] } : null;
}
