// Parts of a config that several architectures share, in every spelling that checkpoints use.
import { mismatch } from '../errors.js';
import type { Activation } from '../ops/act-mul.js';
import type { Config, RopeConfig } from '../weights/config.js';
import type { ModelShape } from './define.js';

export interface TransformerConfig extends ModelShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ff: number;
  readonly activation: Activation;
  readonly eps: number;
  readonly rope: RopeConfig;
  readonly tied: boolean | undefined;
}

/** What an architecture's configs leave out when it has its usual value. */
export interface TransformerDefaults {
  readonly kvHeads?: number;
  readonly headDim?: number;
  readonly eps?: number;
  readonly theta?: number;
  readonly partialRotary?: number;
  readonly tied?: boolean;
  readonly maxPositions?: number;
}

/** Its rotary frequencies are computed before anything is known of the tensors. */
const mostHeadDim = 1 << 14;

/** The base set of keys: attention, MLP, norms, rotary embedding. */
export function readTransformer(config: Config, defaults: TransformerDefaults = {}): TransformerConfig {
  const dim = config.size('hidden_size');
  const heads = config.size('num_attention_heads');
  const headDimKeys = ['head_dim', 'attention_head_dim'];
  const headDim = config.size(headDimKeys, defaults.headDim ?? Math.floor(dim / heads), mostHeadDim);
  const partial = defaults.partialRotary;
  const kvHeads = config.size('num_key_value_heads', defaults.kvHeads ?? heads);
  checkDivides('num_key_value_heads', kvHeads, heads, 'num_attention_heads');
  return {
    vocab: config.size('vocab_size'),
    dim,
    layers: new Array<string>(config.layers()).fill('attention + mlp'),
    maxPositions: config.positions(defaults.maxPositions ?? 2048),
    heads,
    kvHeads,
    headDim,
    ff: config.size('intermediate_size'),
    activation: readActivation(config, 'hidden_act', 'silu'),
    eps: config.number(['rms_norm_eps', 'layer_norm_epsilon'], defaults.eps ?? 1e-6),
    rope: config.rope(headDim, {
      ...(defaults.theta === undefined ? {} : { theta: defaults.theta }),
      ...(partial === undefined ? {} : { partial }),
    }),
    tied: readTied(config, defaults.tied ?? false),
  };
}

/** Throws unless `part` divides `whole`. */
export function checkDivides(key: string, part: number, whole: number, of: string): void {
  if (whole % part !== 0) throw mismatch('INVALID_FILE', `config: ${key}`, `a divisor of ${whole} (${of})`, part);
}

/** `tie_word_embeddings`; undefined, so decided by what the checkpoint has, where the key is absent and not usually true. */
export function readTied(config: Config, usually: boolean): boolean | undefined {
  if (config.value('tie_word_embeddings') === undefined && !usually) return undefined;
  return config.bool('tie_word_embeddings', usually);
}

const activationNames: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  relu2: 'relu2',
  gelu_pytorch_tanh: 'gelu',
  gelu_new: 'gelu',
};

export function readActivation(config: Config, key: string, fallback: string): Activation {
  const name = config.string(key, fallback);
  const activation = Object.hasOwn(activationNames, name) ? activationNames[name] : undefined;
  if (!activation)
    throw mismatch('UNSUPPORTED_FORMAT', `config: ${key}`, Object.keys(activationNames).join(', '), name);
  return activation;
}

/** Window of each layer, 0 for none: by `layer_types` where the config has them, else `usual(i)`. */
export function readWindows(config: Config, layers: number, window: number, usual: (i: number) => boolean): number[] {
  const types = config.perLayer('layer_types', layers);
  return Array.from({ length: layers }, (_, i) => {
    const slides = types ? types[i] === 'sliding_attention' : usual(i);
    return slides ? window : 0;
  });
}

export type LayerKind = 'attention' | 'mamba' | 'mlp' | 'moe';

const kindNames: Readonly<Record<string, LayerKind>> = {
  attention: 'attention',
  full_attention: 'attention',
  hybrid: 'attention',
  mamba: 'mamba',
  mamba2: 'mamba',
  linear_attention: 'mamba',
  mlp: 'mlp',
  moe: 'moe',
  // of `hybrid_override_pattern`
  '*': 'attention',
  M: 'mamba',
  '-': 'mlp',
  E: 'moe',
};

/** Mixer of each layer from a list of names, a pattern string or indices; undefined where the config has none of them. */
export function readKinds(config: Config): LayerKind[] | undefined {
  const pattern = config.value('hybrid_override_pattern');
  const listed = typeof pattern === 'string' ? [...pattern] : config.list(['layers_block_type', 'layer_types']);
  const indices = config.list('attn_layer_indices');
  if (!listed && !indices) return undefined;
  // 5.x leaves the count to the list
  const layers = config.value('num_hidden_layers') === undefined && listed ? listed.length : config.layers();
  if (listed && listed.length !== layers)
    throw mismatch('INVALID_FILE', 'config: kinds of the layers', `${layers} (num_hidden_layers)`, listed.length);
  if (listed) return listed.map(kindOf);
  return Array.from({ length: layers }, (_, i) => (indices?.includes(i) ? 'attention' : 'mamba'));
}

function kindOf(name: unknown): LayerKind {
  const kind = Object.hasOwn(kindNames, String(name)) ? kindNames[String(name)] : undefined;
  if (!kind) throw mismatch('UNSUPPORTED_FORMAT', 'config: kind of a layer', Object.keys(kindNames).join(', '), name);
  return kind;
}

export interface Mamba2Shape {
  readonly heads: number;
  readonly headDim: number;
  readonly groups: number;
  readonly states: number;
  readonly kernel: number;
  readonly dtLimit: readonly [min: number, max: number] | undefined;
}

/** Mamba-2 inside a hybrid, whose `head_dim` and `num_heads` are those of attention. */
export function readMamba2(
  config: Config,
  dim: number,
  usual: { heads: number; states: number; groups: number },
): Mamba2Shape {
  const heads = config.size(['mamba_num_heads', 'mamba_n_heads'], usual.heads);
  const inner = Math.floor(config.number(['mamba_expand', 'expand'], 2) * dim);
  const headDimKeys = ['mamba_head_dim', 'mamba_d_head'];
  const auto = config.value(headDimKeys) === undefined || config.value(headDimKeys) === 'auto';
  if (auto) checkDivides('mamba_n_heads', heads, inner, 'width of the mixer');
  const groups = config.size(['mamba_n_groups', 'n_groups'], usual.groups);
  checkDivides('mamba_n_groups or n_groups', groups, heads, 'heads');
  return {
    heads,
    headDim: auto ? inner / heads : config.size(headDimKeys),
    groups,
    states: config.size(['mamba_d_state', 'ssm_state_size', 'state_size'], usual.states),
    kernel: config.size(['mamba_d_conv', 'conv_kernel'], 4),
    dtLimit: config.range(['time_step_limit', 'mamba_dt_limit']),
  };
}

/** Rank of Mamba-1's Δ projection; `auto` is a sixteenth of the width. */
export function readDtRank(config: Config, key: string, dim: number): number {
  return config.value(key) === 'auto' ? Math.ceil(dim / 16) : config.size(key, Math.ceil(dim / 16));
}
