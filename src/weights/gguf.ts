import { mismatch } from '../errors.js';
import { Config, type RawConfig } from './config.js';
import type { Checkpoint, StoredTensor } from './weights.js';

/** One architecture of GGUF files: its metadata as a Hugging Face config, and its tensor names. */
interface GgufArchitecture {
  config(metadata: GgufMetadata): RawConfig;
  /** Name in the model file → name in the GGUF, of the parts of a layer. */
  readonly layerNames: readonly (readonly [name: string, stored: string])[];
}

const attentionNames = [
  ['input_layernorm.weight', 'attn_norm.weight'],
  ['self_attn.q_proj.weight', 'attn_q.weight'],
  ['self_attn.k_proj.weight', 'attn_k.weight'],
  ['self_attn.v_proj.weight', 'attn_v.weight'],
  ['self_attn.o_proj.weight', 'attn_output.weight'],
  ['self_attn.q_proj.bias', 'attn_q.bias'],
  ['self_attn.k_proj.bias', 'attn_k.bias'],
  ['self_attn.v_proj.bias', 'attn_v.bias'],
  ['self_attn.o_proj.bias', 'attn_output.bias'],
  ['post_attention_layernorm.weight', 'ffn_norm.weight'],
] as const;

/** Mixtral's files say `llama` too. */
const llama: GgufArchitecture = {
  config: (metadata) => ({
    ...transformerConfig(metadata),
    model_type: metadata.count('expert_count') > 0 ? 'mixtral' : 'llama',
  }),
  layerNames: [
    ...attentionNames,
    ['mlp.gate_proj.weight', 'ffn_gate.weight'],
    ['mlp.up_proj.weight', 'ffn_up.weight'],
    ['mlp.down_proj.weight', 'ffn_down.weight'],
    ['block_sparse_moe.gate.weight', 'ffn_gate_inp.weight'],
    ['block_sparse_moe.experts.w1.weight', 'ffn_gate_exps.weight'],
    ['block_sparse_moe.experts.w3.weight', 'ffn_up_exps.weight'],
    ['block_sparse_moe.experts.w2.weight', 'ffn_down_exps.weight'],
  ],
};

/** Granite 4 hybrids; Bamba's files have the same form. */
const granitehybrid: GgufArchitecture = {
  config(metadata) {
    const base = transformerConfig(metadata);
    const inner = metadata.size('ssm.inner_size');
    const heads = metadata.size('ssm.time_step_rank');
    const ff = metadata.largest('feed_forward_length');
    return {
      ...base,
      model_type: 'granitemoehybrid',
      // a layer without key/value heads is a Mamba-2 layer
      layer_types: metadata.perLayer('attention.head_count_kv').map((kvHeads) => (kvHeads > 0 ? 'attention' : 'mamba')),
      shared_intermediate_size: metadata.count('expert_shared_feed_forward_length') || ff,
      // 0 or absent: the usual scale of attention
      attention_multiplier: metadata.number('attention.scale', 0) || (base.head_dim as number) ** -0.5,
      embedding_multiplier: metadata.number('embedding_scale', 0) || 1,
      residual_multiplier: metadata.number('residual_scale', 0) || 1,
      logits_scaling: metadata.number('logit_scale', 0) || 1,
      // the one architecture that says with this key whether it rotates at all
      position_embedding_type: metadata.flag('rope.scaling.finetuned', true) ? 'rope' : 'nope',
      mamba_n_heads: heads,
      mamba_d_head: Math.floor(inner / heads),
      mamba_n_groups: metadata.size('ssm.group_count'),
      mamba_d_state: metadata.size('ssm.state_size'),
      mamba_d_conv: metadata.size('ssm.conv_kernel'),
    };
  },
  layerNames: [
    ...attentionNames,
    ['mamba.in_proj.weight', 'ssm_in.weight'],
    ['mamba.conv1d.weight', 'ssm_conv1d.weight'],
    ['mamba.conv1d.bias', 'ssm_conv1d.bias'],
    ['mamba.dt_bias', 'ssm_dt.bias'],
    ['mamba.A_log', 'ssm_a'],
    ['mamba.D', 'ssm_d'],
    ['mamba.norm.weight', 'ssm_norm.weight'],
    ['mamba.out_proj.weight', 'ssm_out.weight'],
    ['block_sparse_moe.router.layer.weight', 'ffn_gate_inp.weight'],
    ['block_sparse_moe.experts.gate_proj.weight', 'ffn_gate_exps.weight'],
    ['block_sparse_moe.experts.up_proj.weight', 'ffn_up_exps.weight'],
    ['block_sparse_moe.experts.down_proj.weight', 'ffn_down_exps.weight'],
    ['shared_mlp.gate_proj.weight', 'ffn_gate_shexp.weight'],
    ['shared_mlp.up_proj.weight', 'ffn_up_shexp.weight'],
    ['shared_mlp.down_proj.weight', 'ffn_down_shexp.weight'],
    // models without routed experts call the shared MLP plainly
    ['shared_mlp.gate_proj.weight', 'ffn_gate.weight'],
    ['shared_mlp.up_proj.weight', 'ffn_up.weight'],
    ['shared_mlp.down_proj.weight', 'ffn_down.weight'],
  ],
};

/** By `general.architecture`. */
const architectures: Readonly<Record<string, GgufArchitecture>> = { llama, granitehybrid };

const outerNames: readonly (readonly [name: string, stored: string])[] = [
  ['model.embed_tokens.weight', 'token_embd.weight'],
  ['model.norm.weight', 'output_norm.weight'],
  ['lm_head.weight', 'output.weight'],
];

/** The tensor of Llama 3 files that divides the rotary frequencies. */
export const ropeFactorsTensor = 'rope_freqs.weight';

/**
 * A GGUF file as a config and a checkpoint of the model's Hugging Face form. `ropeFactors` are the values of `rope_freqs.weight`.
 *
 * @throws CrosscurrentError UNSUPPORTED_ARCHITECTURE naming those there are; INVALID_FILE.
 */
export function readGguf(
  values: RawConfig,
  tensors: readonly StoredTensor[],
  ropeFactors?: Float32Array,
): { config: Config; checkpoint: Checkpoint } {
  const name = new Config(values).string('general.architecture');
  const architecture = Object.hasOwn(architectures, name) ? architectures[name] : undefined;
  if (!architecture)
    throw mismatch('UNSUPPORTED_ARCHITECTURE', 'general.architecture', Object.keys(architectures).join(', '), name);
  const checkpoint = ggufCheckpoint(architecture, tensors);
  const raw = architecture.config(new GgufMetadata(name, values));
  const config = new Config({
    ...raw,
    // the table itself is the truth: metadata may not give the size of the vocabulary
    vocab_size: checkpoint.find('model.embed_tokens.weight')?.shape[0] ?? values[`${name}.vocab_size`],
    tie_word_embeddings: checkpoint.find('lm_head.weight') === undefined,
    ...(ropeFactors ? { rope_factors: [...ropeFactors] } : {}),
  });
  return { config, checkpoint };
}

function ggufCheckpoint({ layerNames }: GgufArchitecture, tensors: readonly StoredTensor[]): Checkpoint {
  const stored = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const candidates = (name: string): string[] => {
    const [, layer, part] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (layer === undefined) return outerNames.filter(([outer]) => outer === name).map(([, other]) => other);
    return layerNames.filter(([inner]) => inner === part).map(([, other]) => `blk.${layer}.${other}`);
  };
  const find = (name: string): StoredTensor | undefined => {
    for (const candidate of candidates(name)) {
      const tensor = stored.get(candidate);
      if (tensor) return tensor;
    }
    return undefined;
  };
  return {
    find,
    storedName: (name) => find(name)?.name ?? candidates(name)[0] ?? name,
    // converters write A = -exp(A_log)
    transformed: true,
  };
}

/** Keys of both architectures. Converters permute the rows of q and k so that pairs of a rotation are neighbours. */
function transformerConfig(metadata: GgufMetadata): RawConfig {
  const dim = metadata.size('embedding_length');
  const heads = metadata.largest('attention.head_count');
  const headDim = metadata.count('attention.key_length') || Math.floor(dim / heads);
  const scaling = metadata.text('rope.scaling.type', 'none');
  return {
    hidden_size: dim,
    num_hidden_layers: metadata.size('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: metadata.largest('attention.head_count_kv', heads),
    head_dim: headDim,
    intermediate_size: metadata.largest('feed_forward_length'),
    max_position_embeddings: metadata.size('context_length'),
    rms_norm_eps: metadata.number('attention.layer_norm_rms_epsilon', 1e-5),
    num_local_experts: metadata.count('expert_count'),
    num_experts_per_tok: metadata.count('expert_used_count'),
    rope_interleaved: true,
    rope_theta: metadata.number('rope.freq_base', 10000),
    rotary_dim: metadata.count('rope.dimension_count') || headDim,
    rope_scaling: {
      rope_type: scaling === 'none' ? 'default' : scaling,
      factor: metadata.number('rope.scaling.factor', 1),
      original_max_position_embeddings: metadata.count('rope.scaling.original_context_length') || undefined,
    },
  };
}

/** Metadata of one architecture, without the prefix of its keys. */
class GgufMetadata {
  readonly #prefix: string;
  readonly #values: Config;

  constructor(architecture: string, values: RawConfig) {
    this.#prefix = `${architecture}.`;
    this.#values = new Config(values);
  }

  size(key: string): number {
    return this.#values.size(this.#prefix + key);
  }

  /** 0 where absent. */
  count(key: string): number {
    return this.#values.int(this.#prefix + key, 0);
  }

  number(key: string, fallback: number): number {
    return this.#values.number(this.#prefix + key, fallback);
  }

  text(key: string, fallback: string): string {
    return this.#values.string(this.#prefix + key, fallback);
  }

  flag(key: string, fallback: boolean): boolean {
    return this.#values.bool(this.#prefix + key, fallback);
  }

  /** One number a layer; files may give a single one for all. */
  perLayer(key: string, fallback?: number): number[] {
    const layers = this.#values.layers(`${this.#prefix}block_count`);
    const value = this.#values.value(this.#prefix + key);
    if (!Array.isArray(value)) return new Array<number>(layers).fill(this.#values.int(this.#prefix + key, fallback));
    if (value.length < layers || !value.every((n) => Number.isSafeInteger(n) && n >= 0))
      throw mismatch('INVALID_FILE', this.#prefix + key, `${layers} integers, 0 or more`, value);
    return value.slice(0, layers) as number[];
  }

  largest(key: string, fallback?: number): number {
    return Math.max(...this.perLayer(key, fallback));
  }
}
