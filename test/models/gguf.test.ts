// GGUF files of the architectures that have a mapping: against the same model as a Hugging Face checkpoint.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { load, type ModelSource } from '../../src/index.js';
import { findModel } from '../../src/models/index.js';
import type { RawConfig } from '../../src/weights/config.js';
import { readGguf } from '../../src/weights/gguf.js';
import { openModelFiles } from '../../src/weights/open.js';
import type { NamedTensors } from '../../src/weights/safetensors.js';
import { missing, smollm2Gguf, tinyFolder, tinyGguf } from '../support/models.js';
import { encodeGguf, type GgufValue, halfRows, permuted } from './gguf-file.js';
import { granite, ids, joined, randomTensors, small } from './support.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crosscurrent-gguf-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function logitsOf(source: ModelSource): Promise<Float32Array> {
  await using model = await load(source, { activations: 'exact', context: 64, sequences: 1 });
  return await model.logits(ids);
}

/** Sums over a head run in another order, as its elements are permuted. */
async function expectClose(config: RawConfig, tensors: NamedTensors, gguf: Uint8Array): Promise<void> {
  const path = join(folder, 'model.gguf');
  await writeFile(path, gguf);
  const [a, b] = [await logitsOf({ config, tensors }), await logitsOf(path)];
  expect(b).toHaveLength(a.length);
  expect(Math.max(...a.map(Math.abs))).toBeGreaterThan(0.1);
  expect(Math.max(...a.map((value, i) => Math.abs(value - (b[i] as number))))).toBeLessThan(1e-5);
}

const u32 = (value: number) => ({ u32: value });

const transformerMetadata = (arch: string): Record<string, GgufValue> => ({
  'general.architecture': arch,
  [`${arch}.block_count`]: u32(2),
  [`${arch}.context_length`]: u32(256),
  [`${arch}.embedding_length`]: u32(32),
  [`${arch}.feed_forward_length`]: u32(48),
  [`${arch}.attention.head_count`]: u32(4),
  [`${arch}.attention.head_count_kv`]: u32(2),
  [`${arch}.attention.layer_norm_rms_epsilon`]: 1e-6,
  [`${arch}.rope.freq_base`]: 20000,
});

const layerNames: Readonly<Record<string, string>> = {
  'input_layernorm.weight': 'attn_norm.weight',
  'post_attention_layernorm.weight': 'ffn_norm.weight',
  'self_attn.q_proj.weight': 'attn_q.weight',
  'self_attn.k_proj.weight': 'attn_k.weight',
  'self_attn.v_proj.weight': 'attn_v.weight',
  'self_attn.o_proj.weight': 'attn_output.weight',
  'mlp.gate_proj.weight': 'ffn_gate.weight',
  'mlp.up_proj.weight': 'ffn_up.weight',
  'mlp.down_proj.weight': 'ffn_down.weight',
  'block_sparse_moe.gate.weight': 'ffn_gate_inp.weight',
  'block_sparse_moe.router.layer.weight': 'ffn_gate_inp.weight',
  'block_sparse_moe.output_linear.weight': 'ffn_down_exps.weight',
  'shared_mlp.output_linear.weight': 'ffn_down_shexp.weight',
  'mamba.in_proj.weight': 'ssm_in.weight',
  'mamba.conv1d.weight': 'ssm_conv1d.weight',
  'mamba.dt_bias': 'ssm_dt.bias',
  'mamba.D': 'ssm_d',
  'mamba.norm.weight': 'ssm_norm.weight',
  'mamba.out_proj.weight': 'ssm_out.weight',
};
const outerNames: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
};

/** A converter's work: names, permuted q and k, split and stacked experts, A as the recurrence uses it. */
function converted(tensors: NamedTensors, groups = 1): NamedTensors {
  const out: Record<string, NamedTensors[string]> = {};
  const column = ({ shape, data }: NamedTensors[string]) => ({ shape: [...shape, 1], data });
  for (const [name, tensor] of Object.entries(tensors)) {
    const [, layer, part = ''] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
    const put = (stored: string, value: NamedTensors[string]) => {
      out[layer === undefined ? stored : `blk.${layer}.${stored}`] = value;
    };
    const expert = /experts\.0\.(w\d)\.weight$/.exec(part)?.[1];
    if (layer === undefined) put(outerNames[name] as string, tensor);
    else if (expert) {
      const all = Object.entries(tensors).filter(
        ([other]) => other.startsWith(`model.layers.${layer}.`) && other.endsWith(`.${expert}.weight`),
      );
      const stored = { w1: 'ffn_gate_exps', w2: 'ffn_down_exps', w3: 'ffn_up_exps' }[expert];
      put(
        `${stored}.weight`,
        joined(
          all.map(([, each]) => each),
          'stack',
        ),
      );
    } else if (part.includes('experts.')) continue;
    else if (part.endsWith('input_linear.weight')) {
      const suffix = part.startsWith('shared') ? 'shexp' : 'exps';
      put(`ffn_gate_${suffix}.weight`, halfRows(tensor, 0));
      put(`ffn_up_${suffix}.weight`, halfRows(tensor, 1));
    } else if (part === 'mamba.A_log') put('ssm_a', column({ ...tensor, data: tensor.data.map((a) => -Math.exp(a)) }));
    else if (part === 'mamba.D') put('ssm_d', column(tensor));
    else if (part === 'mamba.norm.weight')
      put('ssm_norm.weight', { shape: [groups, tensor.data.length / groups], data: tensor.data });
    else if (part.endsWith('q_proj.weight')) put('attn_q.weight', permuted(tensor, 4));
    else if (part.endsWith('k_proj.weight')) put('attn_k.weight', permuted(tensor, 2));
    else put(layerNames[part] as string, tensor);
  }
  return out;
}

describe('a GGUF file is the model it was made from', () => {
  it('llama, its head tied or not', async () => {
    for (const tied of [true, false]) {
      const config = { ...small, model_type: 'llama', rope_theta: 20000, tie_word_embeddings: tied };
      const tensors = await randomTensors(config);
      await expectClose(config, tensors, encodeGguf(transformerMetadata('llama'), converted(tensors)));
    }
  });

  it('llama with frequencies divided by rope_freqs', async () => {
    const scaling = { rope_type: 'linear', factor: 4 };
    const config = { ...small, model_type: 'llama', rope_theta: 20000, rope_scaling: scaling };
    const tensors = await randomTensors(config);
    const freqs = { 'rope_freqs.weight': { shape: [4], data: new Float32Array(4).fill(4) } };
    await expectClose(config, tensors, encodeGguf(transformerMetadata('llama'), { ...converted(tensors), ...freqs }));
    const asKeys = {
      ...transformerMetadata('llama'),
      'llama.rope.scaling.type': 'linear',
      'llama.rope.scaling.factor': 4,
    };
    await expectClose(config, tensors, encodeGguf(asKeys, converted(tensors)));
  });

  it('llama with experts, which is Mixtral', async () => {
    const config = { ...small, model_type: 'mixtral', num_local_experts: 4, rope_theta: 20000 };
    const tensors = await randomTensors(config);
    const metadata = {
      ...transformerMetadata('llama'),
      'llama.expert_count': u32(4),
      'llama.expert_used_count': u32(2),
    };
    await expectClose(config, tensors, encodeGguf(metadata, converted(tensors)));
  });

  const graniteMetadata = {
    ...transformerMetadata('granitehybrid'),
    'granitehybrid.attention.head_count_kv': [0, 2],
    'granitehybrid.ssm.conv_kernel': u32(4),
    'granitehybrid.ssm.state_size': u32(8),
    'granitehybrid.ssm.inner_size': u32(64),
    'granitehybrid.ssm.time_step_rank': u32(8),
    'granitehybrid.attention.scale': 0.25,
    'granitehybrid.embedding_scale': 3,
    'granitehybrid.residual_scale': 0.5,
    'granitehybrid.logit_scale': 1.5,
  };
  const scales = { attention_multiplier: 0.25, embedding_multiplier: 3, residual_multiplier: 0.5, logits_scaling: 1.5 };

  it.each([
    ['with experts, not rotating', 1, 4, false],
    ['with experts, rotating', 1, 4, true],
    ['with groups', 2, 4, false],
    ['without routed experts', 1, 0, false],
  ] as const)('granitehybrid %s', async (_, groups, experts, rotates) => {
    const config = {
      ...granite,
      ...scales,
      mamba_n_groups: groups,
      num_local_experts: experts,
      rope_theta: 20000,
      position_embedding_type: rotates ? 'rope' : null,
    };
    const tensors = await randomTensors(config);
    const metadata = {
      ...graniteMetadata,
      'granitehybrid.ssm.group_count': u32(groups),
      'granitehybrid.rope.scaling.finetuned': rotates,
      ...(experts > 0
        ? {
            'granitehybrid.expert_count': u32(experts),
            'granitehybrid.expert_used_count': u32(2),
            'granitehybrid.expert_shared_feed_forward_length': u32(40),
          }
        : { 'granitehybrid.feed_forward_length': u32(40) }),
    };
    // attention that does not rotate is the same for any order of its elements
    const stored = Object.entries(converted(tensors, groups)).map(([name, tensor]) => [
      experts > 0 ? name : name.replace('_shexp', ''),
      tensor,
    ]);
    await expectClose(config, tensors, encodeGguf(metadata, Object.fromEntries(stored)));
  });
});

describe('real files', () => {
  it.for([
    ['the shipped model', tinyGguf, 'granitemoehybrid', 10],
    ['SmolLM2', smollm2Gguf, 'llama', 30],
  ] as const)('%s: every tensor has its place', async ([, path, type, layers], context) => {
    const reason = missing(path);
    if (reason) return context.skip(reason);
    const files = await openModelFiles(path);
    expect(files.config.modelType).toBe(type);
    const { graph, shape } = await findModel(type).build(files.config.raw, files.checkpoint);
    files.close();
    expect(shape.layers).toHaveLength(layers);
    const stored = new Map(files.tensors.map((tensor) => [tensor.name, tensor.shape]));
    const parts = graph.weights.flatMap((weight) => weight.parts);
    for (const { tensor, shape: wanted } of parts) expect(stored.get(tensor), tensor).toEqual(wanted);
    expect(new Set(parts.map(({ tensor }) => tensor))).toEqual(new Set(stored.keys()));
  });

  it('the shipped model means the same as its Hugging Face folder', async (context) => {
    const reason = missing(tinyGguf, tinyFolder);
    if (reason) return context.skip(reason);
    const shapes = await Promise.all(
      [tinyGguf, tinyFolder].map(async (path) => {
        const files = await openModelFiles(path);
        const built = await findModel(files.config.modelType).build(files.config.raw, files.checkpoint);
        files.close();
        return { shape: built.shape, states: built.graph.states };
      }),
    );
    expect(shapes[0]).toEqual(shapes[1]);
  });
});

describe('a GGUF file that is not understood', () => {
  it('names the architectures there are', () => {
    expect(() => readGguf({ 'general.architecture': 'rwkv7' }, [])).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED_ARCHITECTURE', expected: 'llama, granitehybrid', got: 'rwkv7' }),
    );
  });

  it.each<[string, RawConfig]>([
    ['no architecture', {}],
    ['no sizes', { 'general.architecture': 'llama' }],
    ['absurdly many layers', { ...flat(transformerMetadata('llama')), 'llama.block_count': 2 ** 32 - 1 }],
    ['kv heads of too few layers', { ...flat(transformerMetadata('llama')), 'llama.attention.head_count_kv': [2] }],
    [
      'kv heads that are no numbers',
      { ...flat(transformerMetadata('llama')), 'llama.attention.head_count_kv': ['2', '2'] },
    ],
  ])('is a typed error: %s', (_, metadata) => {
    expect(() => readGguf(metadata, [])).toThrow(expect.objectContaining({ code: 'INVALID_FILE' }));
  });

  it('lists missing tensors by their names in the file', async () => {
    const config = { ...small, model_type: 'llama' };
    const { 'blk.1.attn_q.weight': _, ...rest } = converted(await randomTensors(config));
    const path = join(folder, 'missing.gguf');
    await writeFile(path, encodeGguf(transformerMetadata('llama'), rest));
    await expect(load(path)).rejects.toMatchObject({
      code: 'MISSING_TENSORS',
      message: expect.stringContaining('blk.1.attn_q.weight [32, 32] is missing'),
    });
  });
});

/** Metadata as the file reader gives it. */
function flat(metadata: Record<string, GgufValue>): RawConfig {
  const plain = Object.entries(metadata).map(([key, value]) => [
    key,
    typeof value === 'object' && 'u32' in value ? value.u32 : value,
  ]);
  return Object.fromEntries(plain);
}
