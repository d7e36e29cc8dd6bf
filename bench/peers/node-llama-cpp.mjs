// node-llama-cpp with its prebuilt CPU binary. Lives here to find the packages of this folder.
import { getLlama, LlamaLogLevel } from 'node-llama-cpp';
import { serve } from '../runners/serve.mjs';

let sequence;

serve({
  vocab: 0,
  async load({ path, threads, context }) {
    const llama = await getLlama({
      gpu: false,
      build: 'never',
      skipDownload: true,
      maxThreads: threads,
      logLevel: LlamaLogLevel.error,
    });
    const model = await llama.loadModel({ modelPath: path });
    const created = await model.createContext({ contextSize: context, threads: { ideal: threads, min: threads } });
    sequence = created.getSequence();
    this.vocab = model.fileInfo.metadata?.tokenizer?.ggml?.tokens?.length ?? 0;
    return { isa: llama.systemInfo, buildType: llama.buildType };
  },
  async *generate(ids) {
    await sequence.clearHistory();
    for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) yield 1;
  },
});
