import type { Program } from './graph/compile.js';
import { defaultModelPath } from './load.js';
import type { MemoryPlan } from './model.js';
import { type CheckpointInfo, decodeWindow, type PlanOptions, pageTokens, planModel } from './model-plan.js';
import { openModelFiles } from './weights/open.js';

export interface Inspection extends CheckpointInfo {
  readonly context: number;
  /** What `load` with the same options would plan; weights as stored, before packing. */
  readonly memory: MemoryPlan;
  readonly program: Program;
}

/** What a model is and what it would take to run it. Reads headers only. @throws as `load` */
export async function inspect(
  path?: string,
  options: PlanOptions & { signal?: AbortSignal } = {},
): Promise<Inspection> {
  const files = await openModelFiles(
    path ?? (await defaultModelPath()),
    options.signal ? { signal: options.signal } : {},
  );
  try {
    const { info, program, context, slots, pages } = await planModel(files, options);
    const weights = files.tensors.reduce((sum, { bytes }) => sum + bytes, 0);
    let [states, cache] = [0, 0];
    for (const { kind, elements, pendingElements } of program.states) {
      if (kind === 'kv') cache += 4 * pages * pageTokens * elements;
      else states += 4 * slots * (elements + decodeWindow * pendingElements);
    }
    const memory = {
      weights,
      activations: program.arenaBytes,
      states,
      cache,
      total: weights + program.arenaBytes + states + cache,
    };
    return { ...info, context, memory, program };
  } finally {
    files.close();
  }
}
