/**
 * - `chow`: the small model is sure: `max q ≥ 1 - alpha`.
 * - `diff`: it is nearly as sure as the large one: `max q ≥ max p - alpha`.
 * - `opt`: so, but the more both differ, the less sure it need be: `max q ≥ max p - alpha · TV(p, q)`.
 * - `token`: the large model finds its very token good: `p(token) ≥ (1 - alpha) · max p`.
 */
export type CascadeRule = 'chow' | 'diff' | 'opt' | 'token';

export const cascadeRules: readonly CascadeRule[] = ['chow', 'diff', 'opt', 'token'];

/** What a model says of one place. */
export interface Opinion {
  /** The token it would choose. */
  readonly choice: number;
  /** [vocab] */
  readonly logits: Float32Array;
}

/**
 * Whether the small model's choice is taken. `q` of the small model and `p` of the large one are their distributions at temperature 1, without filters: what they know, however
 * the output is sampled; but `TV` is the distance of what is sampled from.
 *
 * @see Narasimhan et al. 2025, arXiv:2405.19261, eq. 2 (Chow), 5 (Diff), 10 (OPT), 15 (token)
 */
export function takesSmall(
  rule: CascadeRule,
  alpha: number,
  small: Opinion,
  large: Opinion,
  temperature: number,
): boolean {
  if (!Number.isFinite(alpha)) return alpha > 0;
  const [q, p] = [small.logits, large.logits];
  switch (rule) {
    case 'chow':
      return largest(q) >= 1 - alpha;
    case 'diff':
      return largest(q) >= largest(p) - alpha;
    case 'opt':
      return largest(q) >= largest(p) - alpha * distance(small, large, temperature);
    case 'token':
      return Math.exp((p[small.choice] as number) - maxOf(p)) >= 1 - alpha;
  }
}

/** The largest probability of softmax(logits). */
const largest = (logits: Float32Array): number => 1 / totalOf(logits, maxOf(logits), 1);

function maxOf(logits: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > max) max = logit;
  return max;
}

/** Sum of exp((logit - max) · scale). */
function totalOf(logits: Float32Array, max: number, scale: number): number {
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - max) * scale);
  return total;
}

/** Total variation of the two distributions at the temperature; of the two choices where it is 0. */
function distance(small: Opinion, large: Opinion, temperature: number): number {
  if (temperature === 0) return small.choice === large.choice ? 0 : 1;
  const [q, p] = [small.logits, large.logits];
  const scale = 1 / temperature;
  const [maxQ, maxP] = [maxOf(q), maxOf(p)];
  const [totalQ, totalP] = [totalOf(q, maxQ, scale), totalOf(p, maxP, scale)];
  let sum = 0;
  for (let i = 0; i < q.length; i++) {
    const more =
      Math.exp(((q[i] as number) - maxQ) * scale) / totalQ - Math.exp(((p[i] as number) - maxP) * scale) / totalP;
    if (more > 0) sum += more;
  }
  return sum;
}
