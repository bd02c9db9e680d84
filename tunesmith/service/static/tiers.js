// A ranking as the page holds it: tiers best to worst, each a list of answer indices in the order they stand.
// Every function returns new tiers and leaves its argument alone.

const copy = (tiers) => tiers.map((tier) => [...tier]).filter((tier) => tier.length);
const without = (tiers, answer) => copy(tiers.map((tier) => tier.filter((a) => a !== answer)));

export const tierOf = (tiers, answer) => tiers.findIndex((tier) => tier.includes(answer));

// One step better: out of a tie to just above it, or past the tier above.
export function raise(tiers, answer) {
  const at = tierOf(tiers, answer);
  const rest = without(tiers, answer);
  if (tiers[at].length > 1) rest.splice(at, 0, [answer]);
  else rest.splice(Math.max(at - 1, 0), 0, [answer]);
  return rest;
}

// One step worse: out of a tie to just below it, or past the tier below.
export function lower(tiers, answer) {
  const at = tierOf(tiers, answer);
  const rest = without(tiers, answer);
  rest.splice(at + 1, 0, [answer]);
  return rest;
}

export const tiedAbove = (tiers, answer) => tiers[tierOf(tiers, answer)].indexOf(answer) > 0;

// Join the answer with the one above it, or cut the tie between them.
export function toggleTie(tiers, answer) {
  const at = tierOf(tiers, answer);
  const place = tiers[at].indexOf(answer);
  const next = copy(tiers);
  if (place > 0) next.splice(at, 1, tiers[at].slice(0, place), tiers[at].slice(place));
  else if (at > 0) next.splice(at - 1, 2, [...tiers[at - 1], ...tiers[at]]);
  return next;
}

// Drop the answer at a gap of the others' order (0: above all). Between two tied answers it joins their tie.
export function dropAt(tiers, answer, gap) {
  const rest = without(tiers, answer);
  let passed = 0;
  for (let at = 0; at < rest.length; at += 1) {
    if (gap === passed) return [...rest.slice(0, at), [answer], ...rest.slice(at)];
    const inside = gap - passed;
    if (inside < rest[at].length) {
      rest[at].splice(inside, 0, answer);
      return rest;
    }
    passed += rest[at].length;
  }
  return [...rest, [answer]];
}

// Drop the answer onto another: they tie.
export function dropOn(tiers, answer, other) {
  const rest = without(tiers, answer);
  const tier = rest[tierOf(rest, other)];
  tier.splice(tier.indexOf(other) + 1, 0, answer);
  return rest;
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
