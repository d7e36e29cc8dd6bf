import type { Tensor } from '../graph/tensor.js';
import type { Activation } from '../ops/act-mul.js';
import { moe as moeOp, router as routerOp } from '../ops/index.js';
import type { RouterRule } from '../ops/router.js';
import type { Weights } from '../weights/weights.js';
import { add, type Block, linear } from './layers.js';

export interface MoeConfig {
  readonly dim: number;
  readonly ff: number;
  readonly experts: number;
  readonly topK: number;
  readonly rule: RouterRule;
  /** Divide the chosen weights by their sum. */
  readonly renormalize: boolean;
  /** Factor on the weights. */
  readonly scale?: number;
  readonly activation: Activation;
  /** `down(act(gate·x) · (up·x))`; `down(act(up·x))` where false. */
  readonly gated?: boolean;
  /** Width that the experts work in, between two projections of the whole layer; absent: `dim`. */
  readonly latent?: number | undefined;
  /** Prefix of the labels `….router.ids` and `….router.weights`. */
  readonly label: string;
  readonly names?: Partial<MoeNames>;
}

/** Names in the checkpoint; those of Qwen where absent. */
interface MoeNames {
  readonly router: string;
  /** Of the matrices of an expert, `experts.{e}.….weight`. */
  readonly gate: string;
  readonly up: string;
  readonly down: string;
  /** Of the matrices of all experts: gate above up, [experts, 2·ff, dim], and down, [experts, dim, ff]. */
  readonly fusedInput: string;
  readonly fusedOutput: string;
  /** The layout to ask for when the checkpoint has none. */
  readonly layout: Layout;
}

/** `each`: matrices of each expert; `stacked`: [experts, …] of gate, up and down; `fused`: gate and up in one stack. */
type Layout = 'each' | 'stacked' | 'fused';

const defaults: MoeNames = {
  router: 'gate',
  gate: 'gate_proj',
  up: 'up_proj',
  down: 'down_proj',
  fusedInput: 'experts.gate_up_proj',
  fusedOutput: 'experts.down_proj',
  layout: 'each',
};

/** Mixture of experts, added to the residual. @see Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088 */
export function moe(weights: Weights, config: MoeConfig): Block {
  const names = { ...defaults, ...config.names };
  const { dim, experts, latent, label } = config;
  const logits = linear(weights, names.router, dim, experts, { exact: true });
  const bias = weights.optionalVector(`${names.router}.e_score_correction_bias`, [experts]);
  const matrices = expertMatrices(weights, { ...config, dim: latent ?? dim }, names);
  const [toLatent, fromLatent] =
    latent === undefined
      ? []
      : [linear(weights, 'fc1_latent_proj', dim, latent), linear(weights, 'fc2_latent_proj', latent, dim)];
  return (x, residual) => {
    const { graph } = x;
    const choice = routerOp({
      logits: logits(x), // [t, experts]
      bias,
      top_k: config.topK,
      rule: config.rule,
      renormalize: config.renormalize,
      scale: config.scale ?? 1,
    });
    const ids = graph.label(`${label}.router.ids`, choice.ids); // [t, top_k]
    const scores = graph.label(`${label}.router.weights`, choice.weights); // [t, top_k]
    const input = toLatent ? toLatent(x) : x;
    const y = moeOp({ x: input, ids, weights: scores, activation: config.activation, ...matrices }).y; // [t, dim]
    return fromLatent ? fromLatent(y, residual) : add(residual.to, y, residual.scale);
  };
}

interface ExpertMatrices {
  readonly gate: Tensor;
  readonly up?: Tensor;
  readonly down: Tensor;
}

/** The experts' matrices as stacks [experts, ff, dim] and [experts, dim, ff], from whichever layout the checkpoint has. */
function expertMatrices(weights: Weights, config: MoeConfig, names: MoeNames): ExpertMatrices {
  const { dim, ff, experts, gated = true } = config;
  const layout = layoutOf(weights, names);
  const all = Array.from({ length: experts }, (_, e) => e);
  const stack = (name: string, out: number, input: number): Tensor => {
    const shape = [experts, out, input];
    if (layout === 'stacked') return weights.matrix(weights.either(`experts.${name}.weight`, `experts.${name}`), shape);
    const pieces = all.map((e) => ({ name: `experts.${e}.${name}.weight`, shape: [out, input] }));
    return weights.stack(`experts.${name}.weight`, shape, pieces);
  };
  if (layout === 'fused') {
    const half = (which: number): Tensor => {
      const piece = (e: number) => {
        const first = (2 * e + which) * ff;
        return { name: fusedName, shape: [experts, 2 * ff, dim], rows: [first, first + ff] as const };
      };
      return weights.stack(`experts.${which === 0 ? names.gate : names.up}.weight`, [experts, ff, dim], all.map(piece));
    };
    const fusedName = names.fusedInput;
    return { gate: half(0), up: half(1), down: weights.matrix(names.fusedOutput, [experts, dim, ff]) };
  }
  const up = stack(names.up, ff, dim);
  const down = stack(names.down, dim, ff);
  return gated ? { gate: stack(names.gate, ff, dim), up, down } : { gate: up, down };
}

function layoutOf(weights: Weights, names: MoeNames): Layout {
  const { up, down } = names;
  if (weights.has(names.fusedInput)) return 'fused';
  if (weights.has(`experts.${up}.weight`) || weights.has(`experts.${up}`)) return 'stacked';
  if (weights.has(`experts.0.${up}.weight`) || weights.has(`experts.0.${down}.weight`)) return 'each';
  return names.layout;
}
