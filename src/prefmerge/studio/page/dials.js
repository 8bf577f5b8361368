// The law of the linked dials. A dial is a whole number of UNITS; together they are UNITS, always.

export const UNITS = 10000;

// Whole numbers that sum to `total` exactly, in proportion to the weights: what is left goes to the largest remainders.
export function apportion(weights, total) {
  const sum = weights.reduce((a, b) => a + b, 0);
  const exact = weights.map((w) => (sum > 0 ? (w / sum) * total : total / weights.length));
  const whole = exact.map(Math.floor);
  const order = exact.map((_, i) => i).sort((a, b) => exact[b] - whole[b] - (exact[a] - whole[a]) || a - b);
  const left = total - whole.reduce((a, b) => a + b, 0);
  for (const i of order.slice(0, left)) whole[i] += 1;
  return whole;
}

// The dials after one was moved: locked ones stay, the others keep the ratios that they have in `ratios`.
export function move(dials, moved, value, locked, ratios = dials) {
  const free = dials.map((_, t) => t).filter((t) => t !== moved && !locked[t]);
  const room = UNITS - dials.reduce((sum, dial, t) => sum + (t !== moved && locked[t] ? dial : 0), 0);
  const next = [...dials];
  next[moved] = free.length ? Math.min(room, Math.max(0, Math.round(value))) : room;
  apportion(free.map((t) => ratios[t]), room - next[moved]).forEach((part, i) => { next[free[i]] = part; });
  return next;
}

// s_t in proportion to alpha^(T - t).
export function geometric(alpha, count) {
  return apportion(Array.from({ length: count }, (_, t) => alpha ** (count - 1 - t)), UNITS);
}

// What was typed, as units; null for what is no number from 0 to 100.
export function typed(text) {
  const number = Number(text.trim().replace(/%$/, "").trim().replace(",", "."));
  if (text.trim() === "" || !Number.isFinite(number) || number < 0 || number > 100) return null;
  return Math.round((number / 100) * UNITS);
}

export function percent(units) {
  return (units / (UNITS / 100)).toFixed(2).replace(/\.?0+$/, "");
}
