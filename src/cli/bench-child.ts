// What `Runner` starts: `main(name, find)` in a process whose `find` imports from the folder where the peer is installed.
import { serveOnnx } from './bench-onnx.js';
import type { RunnerName } from './bench-runner.js';
import { answerModel, type ModelRunner } from './bench-serve.js';

export async function main(name: RunnerName, find: (specifier: string) => Promise<unknown>): Promise<void> {
  // a peer that starts processes of its own hands these on, and would start this program again
  process.execArgv.splice(0);
  try {
    if (name === 'crosscurrent') answerModel(await ourRunner());
    else if (name === 'node-llama-cpp') answerModel(llamaRunner((await find(name)) as LlamaPackage));
    else serveOnnx((await find(name)) as Parameters<typeof serveOnnx>[0]);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // of a package that is there, one of its own may be missing
    const absent = code === 'ERR_MODULE_NOT_FOUND' && message.includes(`'${name}'`);
    process.send?.({ ready: false, reason: absent ? '' : message.split('\n', 1)[0] });
  }
}

async function ourRunner(): Promise<ModelRunner> {
  const { load } = await import('../load.js');
  let model: Awaited<ReturnType<typeof load>> | undefined;
  return {
    get vocab() {
      return model?.info.vocab ?? 0;
    },
    async load({ path, ...options }) {
      // the same prompt again and again: its time is what is measured
      model = await load(path, { ...options, prefixCacheBytes: 0 });
      return { isa: model.info.isa };
    },
    async *generate(ids, tokens) {
      if (!model) return;
      for await (const piece of model.generate(Int32Array.from(ids), { maxTokens: tokens, ignoreEos: true }))
        yield piece.ids.length;
    },
  };
}

/** What is used of node-llama-cpp 3. @see https://node-llama-cpp.withcat.ai/api/functions/getLlama */
interface LlamaPackage {
  readonly LlamaLogLevel: { readonly error: unknown };
  getLlama(options: object): Promise<{
    readonly systemInfo: string;
    readonly buildType: string;
    loadModel(options: { modelPath: string }): Promise<{
      readonly fileInfo: { readonly metadata?: { tokenizer?: { ggml?: { tokens?: readonly unknown[] } } } };
      createContext(options: object): Promise<{ getSequence(): LlamaSequence }>;
    }>;
  }>;
}

interface LlamaSequence {
  clearHistory(): Promise<void>;
  evaluate(ids: readonly number[], options: object): AsyncIterable<unknown>;
}

function llamaRunner({ getLlama, LlamaLogLevel }: LlamaPackage): ModelRunner {
  let sequence: LlamaSequence | undefined;
  let vocab = 0;
  return {
    get vocab() {
      return vocab;
    },
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
      vocab = model.fileInfo.metadata?.tokenizer?.ggml?.tokens?.length ?? 0;
      return { isa: llama.systemInfo, buildType: llama.buildType };
    },
    async *generate(ids) {
      if (!sequence) return;
      await sequence.clearHistory();
      for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) yield 1;
    },
  };
}
