// Ours, as it is installed: the package by its own name, compiled.
import { devices, load } from 'crosscurrent';
import { serve } from './serve.mjs';

let model;

serve({
  vocab: 0,
  async load({ path, threads, context }) {
    // the same prompt again and again: its time is what is measured
    model = await load(path, { threads, context, prefixCacheBytes: 0 });
    this.vocab = model.info.vocab;
    return { isa: devices()[0]?.isa };
  },
  async *generate(ids, tokens) {
    for await (const piece of model.generate(Int32Array.from(ids), { maxTokens: tokens, ignoreEos: true }))
      yield piece.ids.length;
  },
});
