// A ranking as the page holds it: tiers best to worst, each a list of answer indices in the order they stand.
// With `rest`, the last tier is the rest: below all others, not compared among themselves. It has two answers or more.
// Every function returns new tiers and leaves its argument alone.

const copy = (tiers) => tiers.map((tier) => [...tier]).filter((tier) => tier.length);
const without = (tiers, answer) => copy(tiers.map((tier) => tier.filter((a) => a !== answer)));

export const tierOf = (tiers, answer) => tiers.findIndex((tier) => tier.includes(answer));
export const inRest = (tiers, answer, rest) => Boolean(rest) && tierOf(tiers, answer) === tiers.length - 1;

// One step better: out of a tie to just above it, or past the tier above.
export function raise(tiers, answer) {
  const at = tierOf(tiers, answer);
  const next = without(tiers, answer);
  if (tiers[at].length > 1) next.splice(at, 0, [answer]);
  else next.splice(Math.max(at - 1, 0), 0, [answer]);
  return next;
}

// One step worse: out of a tie to just below it, past the tier below, or into the rest.
export function lower(tiers, answer, rest = false) {
  if (inRest(tiers, answer, rest)) return copy(tiers);
  const at = tierOf(tiers, answer);
  const next = without(tiers, answer);
  if (rest && tiers[at].length === 1 && at === tiers.length - 2) next[at].unshift(answer);
  else next.splice(at + 1, 0, [answer]);
  return next;
}

export const tiedAbove = (tiers, answer) => tiers[tierOf(tiers, answer)].indexOf(answer) > 0;

// Join the answer with the one above it, or cut the tie between them. The rest is no tie.
export function toggleTie(tiers, answer, rest = false) {
  const next = copy(tiers);
  if (inRest(tiers, answer, rest)) return next;
  const at = tierOf(tiers, answer);
  const place = tiers[at].indexOf(answer);
  if (place > 0) next.splice(at, 1, tiers[at].slice(0, place), tiers[at].slice(place));
  else if (at > 0) next.splice(at - 1, 2, [...tiers[at - 1], ...tiers[at]]);
  return next;
}

// Make the answer and all below it the rest; from inside the rest, number its answers again.
export function toggleRest(tiers, answer, rest = false) {
  if (inRest(tiers, answer, rest)) return { tiers: [...copy(tiers.slice(0, -1)), ...tiers.at(-1).map((a) => [a])], rest: false };
  const order = tiers.flat();
  const tail = order.slice(order.indexOf(answer));
  if (tail.length < 2 || tail.length === order.length) return { tiers: copy(tiers), rest };
  return { tiers: [...copy(tiers.map((tier) => tier.filter((a) => !tail.includes(a)))), tail], rest: true };
}

// Drop the answer at a gap of the others' order (0: above all). Between two tied answers it joins their tie.
export function dropAt(tiers, answer, gap, rest = false) {
  const next = without(tiers, answer);
  let passed = 0;
  for (let at = 0; at < next.length; at += 1) {
    if (gap === passed) return [...next.slice(0, at), [answer], ...next.slice(at)];
    const inside = gap - passed;
    if (inside < next[at].length || (rest && at === next.length - 1)) {
      next[at].splice(inside, 0, answer);
      return next;
    }
    passed += next[at].length;
  }
  return [...next, [answer]];
}

// Drop the answer onto another: they tie.
export function dropOn(tiers, answer, other) {
  const next = without(tiers, answer);
  const tier = next[tierOf(next, other)];
  tier.splice(tier.indexOf(other) + 1, 0, answer);
  return next;
}

// The rank of each tier as people count: after two tied firsts comes a third.
export function places(tiers) {
  let above = 0;
  return tiers.map((tier) => {
    const place = above + 1;
    above += tier.length;
    return place;
  });
}
