// The distribution that `sample` draws from, in f64.
import type { Numbers } from './rows.js';

export interface Filter {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
}

/** Tokens that may be chosen, likeliest first, with their probabilities. */
export function distribution(logits: Numbers, { temperature, topK, topP, minP }: Filter): [id: number, p: number][] {
  const order = Array.from(logits, (logit, id) => [id, logit] as const).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  const largest = order[0]![1];
  if (temperature === 0) return [[order[0]![0], 1]];
  let kept = order.map(([id, logit]): [number, number] => [id, Math.exp((logit - largest) / temperature)]);
  if (topK > 0) kept = kept.slice(0, topK);
  const total = kept.reduce((sum, [, w]) => sum + w, 0);
  let share = 0;
  kept = kept.filter(([, w], i) => {
    const keep = i === 0 || (share < topP * total && w >= minP);
    share += w;
    return keep;
  });
  const sum = kept.reduce((all, [, w]) => all + w, 0);
  return kept.map(([id, w]) => [id, w / sum]);
}
