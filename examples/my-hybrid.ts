// A new hybrid in a page: one attention layer, a Mamba-1, a Mamba-2 and a mixture of experts, put together from the public layers;
// run on random weights, saved, and loaded back. `npx tsx examples/my-hybrid.ts`
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { load } from 'crosscurrent';
import { defineModel, type ModelDefinition, type NamedTensors, nn, saveSafetensors } from 'crosscurrent/graph';

/** Pre-norm residual stack; the letters of `pattern` name the block of each layer: Attention, Mamba-1, Mamba-2 (`S`), Experts. */
export const myHybrid = defineModel(
  'my_hybrid',
  (config) => ({
    vocab: config.size('vocab_size'),
    dim: config.size('hidden_size'),
    layers: [...config.string('pattern')],
    maxPositions: config.positions(1024),
    eps: 1e-6,
    tied: true,
  }),
  (config, weights) => {
    const { dim, eps } = config;
    const rotate = nn.rope(weights.graph, { type: 'default', theta: 10000, dim: 16 }, 16);
    const blocks: Record<string, (w: typeof weights, i: number) => nn.Block> = {
      A: (w) => nn.attention(w, { dim, heads: 4, kvHeads: 2, headDim: 16, rope: rotate }),
      M: (w) => nn.mamba1(w, { dim, channels: 2 * dim, states: 8, kernel: 4, dtRank: 4 }),
      S: (w) => nn.mamba2(w, { dim, heads: 8, headDim: 16, groups: 1, states: 16, kernel: 4, eps }),
      E: (w, i) =>
        nn.moe(w, {
          dim,
          ff: 48,
          experts: 8,
          topK: 2,
          rule: 'softmax_topk',
          renormalize: true,
          activation: 'silu',
          label: `layers.${i}`,
        }),
    };
    return nn.decoder(weights, config, {}, (w, i) => {
      const norm = nn.norm(w, 'norm', dim, eps);
      const block = blocks[config.layers[i] ?? '']?.(w.at('block'), i);
      if (!block) throw new Error(`pattern: no block ${config.layers[i]}`);
      return (h) => block(norm(h), { to: h }); // [t, dim]
    });
  },
);

/** Small random values for every tensor that the model names; a seed gives the same ones again. */
async function randomTensors(model: ModelDefinition, config: object, seed: number): Promise<NamedTensors> {
  let state = seed;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
  const values = (await model.tensors({ ...config })).map(({ name, shape }) => {
    const length = shape.reduce((product, n) => product * n, 1);
    return [name, { shape, data: Float32Array.from({ length }, () => (name.includes('norm') ? 1 : 0) + random() / 4) }];
  });
  return Object.fromEntries(values);
}

export async function main(): Promise<{ made: Float32Array; loaded: Float32Array }> {
  const config = { model_type: 'my_hybrid', vocab_size: 256, hidden_size: 64, pattern: 'MESEAEMS' };
  const tensors = await randomTensors(myHybrid, config, 1);
  const ids = Int32Array.from([1, 2, 3, 5, 8, 13, 21, 34]);

  await using made = await load({ config, tensors }, { models: [myHybrid] });
  const logits = await made.logits(ids); // [8, 256]

  const folder = await mkdtemp(join(tmpdir(), 'my-hybrid-'));
  try {
    await writeFile(join(folder, 'config.json'), JSON.stringify(config));
    await saveSafetensors(join(folder, 'model.safetensors'), tensors);
    await using loaded = await load(folder, { models: [myHybrid] });
    return { made: logits, loaded: await loaded.logits(ids) };
  } finally {
    await rm(folder, { recursive: true });
  }
}

if (import.meta.filename === process.argv[1]) {
  const { made, loaded } = await main();
  console.log(
    `logits of the saved model are ${made.every((value, i) => value === loaded[i]) ? 'the same' : 'different'}`,
  );
}
