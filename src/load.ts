import { DraftModels } from './draft-models.js';
import { CrosscurrentError, mismatch } from './errors.js';
import { Sampler } from './generate/sampling.js';
import { Scheduler } from './generate/scheduler.js';
import type { SchedulerLimits } from './generate/task.js';
import { Model } from './model.js';
import {
  checkCount,
  checkPositive,
  chunkTokens,
  decodeWindow,
  type PlanOptions,
  pageTokens,
  planModel,
  requireMemory,
} from './model-plan.js';
import { openAddon } from './native/addon.js';
import { devices, loadWeights, openSession, parseProgram } from './native/index.js';
import { openTokenizer, type Tokenizer } from './text/index.js';
import { turn } from './turn.js';
import { fingerprintOf } from './weights/fingerprint.js';
import { type ModelSource, openModelFiles } from './weights/open.js';

export interface LoadOptions extends PlanOptions {
  /** `auto` (the default) takes the best device there is. */
  device?: 'auto' | 'cpu';
  /** `fast` (the default) rounds the activations of matrix products to int8 per 32 values; `exact` keeps them in f32. */
  activations?: 'fast' | 'exact';
  /** Threads of a step; the physical cores of the process when absent. */
  threads?: number;
  /** Instruction-set level of the kernels, one of `devices()[0].isas`; the best one when absent. */
  isa?: string;
  /** Most requests that may wait for others to end; further ones reject with QUEUE_FULL. Default: any number. */
  maxQueue?: number;
  signal?: AbortSignal;
  /** Told while weights are read and packed. */
  onProgress?: (progress: { readonly doneBytes: number; readonly totalBytes: number }) => void;
}

/**
 * From so many cores on the tokenizer is made while weights are packed. With both at once, and what V8 compiles and collects for both, more threads want to run than a smaller machine has cores, and
 * the event loop waits its turn.
 */
const coresToTokenizeBeside = 4;

/**
 * Loads a model: a `.gguf` file, a folder with `config.json` and safetensors, or a config and tensors in memory. Without a source, the small
 * model of the package `crosscurrent-tiny`.
 *
 * @throws CrosscurrentError IO, INVALID_FILE, UNSUPPORTED_FORMAT, UNSUPPORTED_ARCHITECTURE, MISSING_TENSORS, MISSING_KERNEL, OUT_OF_MEMORY, FILE_CHANGED,
 *   INVALID_ARGUMENT, NATIVE_NOT_FOUND; the reason of `signal`.
 */
export async function load(source?: ModelSource, options: LoadOptions = {}): Promise<Model> {
  const { signal } = options;
  signal?.throwIfAborted();
  checkOptions(options);
  await openAddon();
  checkIsa(options.isa);
  const withSignal = signal ? { signal } : {};
  // closed in turn, last first, on dispose or when loading fails
  const opened: { close(): Promise<void> | void }[] = [];
  const closeAll = async (): Promise<void> => {
    for (const item of opened.toReversed()) await item.close();
  };
  let tokenizing: Promise<Tokenizer | undefined> | undefined;
  try {
    const files = await openModelFiles(source ?? (await defaultModelPath()), withSignal);
    opened.push(files);
    await turn();
    const plan = await planModel(files, options);
    await turn();
    requireMemory(plan.memory);
    await turn();
    const startTokenizer = (): void => {
      if (typeof source === 'object') return;
      tokenizing = openTokenizer({ kind: files.format === 'gguf' ? 'gguf' : 'folder', path: files.path }, withSignal);
      tokenizing.catch(() => {});
    };
    const isRoomy = (devices()[0]?.threads ?? 0) >= coresToTokenizeBeside;
    if (isRoomy) startTokenizer();
    const program = parseProgram(plan.program.words);
    opened.push(program);
    const weights = await loadWeights(files.file, program, plan.program.weights, {
      ...withSignal,
      ...(options.onProgress ? { onProgress: options.onProgress } : {}),
    });
    opened.push(weights);
    const settings = {
      threads: options.threads ?? 0,
      exact: options.activations === 'exact',
      kv: plan.kv,
      ...(options.isa === undefined ? {} : { isa: options.isa }),
    };
    const session = await openSession(
      program,
      weights,
      {
        slots: plan.slots,
        pages: plan.pages,
        pageTokens,
        window: decodeWindow,
        ...settings,
      },
      signal,
    );
    opened.push(session);
    const { context, slots, pages } = plan;
    const limits: SchedulerLimits = {
      ...plan.program.bounds,
      slots,
      pages,
      pageTokens,
      context,
      chunk: chunkTokens,
      recurrent: plan.memory.states > 0,
      prefixCacheBytes: plan.memory.prefixes,
      ...(options.maxQueue === undefined ? {} : { maxQueue: options.maxQueue }),
    };
    const scheduler = new Scheduler(session, limits);
    await warmUp(scheduler, plan.info.vocab, signal);
    await turn();
    const draftModels = new DraftModels(plan, weights, settings);
    opened.push(draftModels);
    const fingerprint = await fingerprintOf(files);
    await turn();
    if (!isRoomy) startTokenizer();
    const tokenizer = await tokenizing;
    signal?.throwIfAborted();
    files.close();
    const { arena: activationBytes, states, kv: cache } = session.bytes;
    const { drafts, prefixes } = plan.memory;
    const memory = {
      weights: weights.bytes,
      activations: activationBytes,
      states,
      drafts,
      cache,
      prefixes,
      total: weights.bytes + activationBytes + states + cache + prefixes,
    };
    return new Model({
      info: {
        ...plan.info,
        device: 'cpu',
        isa: options.isa ?? devices()[0]?.isa ?? 'unknown',
        activations: options.activations ?? 'fast',
        kv: plan.kv,
        context,
        fingerprint,
        memory,
      },
      program: plan.program,
      scheduler,
      tokenizer,
      draftModels,
      expertLoads: () => session.expertLoads,
      close: closeAll,
    });
  } catch (error) {
    await (await tokenizing?.catch(() => undefined))?.dispose();
    await closeAll();
    throw error;
  }
}

/** A token through every layer and one chosen after it: what happens once, code compiled and memory touched, is not left to the first request. */
async function warmUp(scheduler: Scheduler, vocab: number, signal: AbortSignal | undefined): Promise<void> {
  const state = await scheduler.open(signal);
  try {
    state.ids.push(0);
    const capacity = Math.min(3, scheduler.limits.context);
    const sampler = new Sampler({ seed: 0 }, vocab);
    await scheduler.run({ state, target: 1, capacity, sampler, onToken: () => true }, signal);
  } catch (error) {
    // weights that give NaN are met by whoever asks for a token
    if (!(error instanceof CrosscurrentError && error.code === 'INVALID_ARGUMENT')) throw error;
  } finally {
    scheduler.close(state);
  }
}

function checkOptions({ device, threads, activations, maxQueue }: LoadOptions): void {
  checkPositive('threads', threads);
  checkCount('maxQueue', maxQueue);
  if (device !== undefined && device !== 'auto' && device !== 'cpu')
    throw mismatch('DEVICE_UNAVAILABLE', 'device', 'auto or cpu', device);
  if (activations !== undefined && activations !== 'fast' && activations !== 'exact')
    throw mismatch('INVALID_ARGUMENT', 'activations', 'fast or exact', activations);
}

function checkIsa(isa: string | undefined): void {
  if (isa === undefined) return;
  const isas = devices()[0]?.isas ?? [];
  if (!isas.includes(isa)) throw mismatch('INVALID_ARGUMENT', 'isa', isas.join(', '), String(isa));
}

/** The file of the package `crosscurrent-tiny`: installed, or beside this package in a clone. */
export async function defaultModelPath(): Promise<string> {
  for (const name of ['crosscurrent-tiny', '../models/tiny/index.js']) {
    try {
      return ((await import(name)) as { path: string }).path;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    }
  }
  throw new CrosscurrentError(
    'IO',
    'model: no path given, and the package crosscurrent-tiny is not installed (npm install crosscurrent-tiny)',
  );
}
