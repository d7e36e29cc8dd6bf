import type { SamplingOptions } from '../generate/sampling.js';
import type { Speculation } from '../generate/speculation.js';
import { type LoadOptions, load } from '../load.js';
import type { Model } from '../model.js';
import type { KvType } from '../ops/flash-attention.js';
import { draftModel, lookahead, promptLookup, selfDraft } from '../speculate/index.js';
import { progressBar } from './progress.js';

export interface ModelFlags {
  model?: string;
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  context?: number;
  threads?: number;
  isa?: string;
  speculate?: string;
  activations?: 'fast' | 'exact';
  kv?: KvType;
}

/** The entries of `from` that are there, under the same names. */
export function pick<T extends object, K extends keyof T>(
  from: T,
  ...keys: K[]
): { [P in K]?: Exclude<T[P], undefined> } {
  return Object.fromEntries(keys.flatMap((key) => (from[key] === undefined ? [] : [[key, from[key]]]))) as {
    [P in K]?: Exclude<T[P], undefined>;
  };
}

export const samplingOf = (flags: ModelFlags): SamplingOptions & { maxTokens?: number } =>
  pick(flags, 'maxTokens', 'temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'seed');

/** Loads with a progress bar on a terminal. */
export async function loadWithProgress(flags: ModelFlags, signal: AbortSignal): Promise<Model> {
  const bar = progressBar('loading');
  const options: LoadOptions = {
    ...pick(flags, 'context', 'threads', 'isa', 'activations', 'kv'),
    signal,
    onProgress: ({ doneBytes, totalBytes }) => bar.update(doneBytes, totalBytes),
  };
  try {
    return await load(flags.model, options);
  } finally {
    bar.stop();
  }
}

/** A signal that Ctrl-C aborts; a second Ctrl-C ends the process. */
export function interruptSignal(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  process.once('SIGINT', stop);
  return { signal: controller.signal, release: () => process.removeListener('SIGINT', stop) };
}

/** The drafter that `--speculate` names, with the draft model it may have loaded. */
export async function speculationOf(
  flags: ModelFlags,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly speculate?: Speculation }> {
  const name = flags.speculate ?? 'none';
  const [, layers] = /^self:(.*)$/.exec(name) ?? [];
  const nothing = { [Symbol.asyncDispose]: async () => {} };
  if (name === 'none') return nothing;
  if (name === 'lookup') return { speculate: promptLookup(), ...nothing };
  if (name === 'lookahead') return { speculate: lookahead(), ...nothing };
  if (layers !== undefined) return { speculate: selfDraft({ layers: Number(layers) }), ...nothing };
  const draft = await load(name === 'tiny' ? undefined : name, { ...pick(flags, 'context', 'threads'), signal });
  return { speculate: draftModel(draft), [Symbol.asyncDispose]: () => draft.dispose() };
}
