import type { Program } from './graph/compile.js';
import { defaultModelPath } from './load.js';
import { type CheckpointInfo, type MemoryPlan, type PlanOptions, planModel } from './model-plan.js';
import type { KvType } from './ops/flash-attention.js';
import { openModelFiles } from './weights/open.js';

export interface Inspection extends CheckpointInfo {
  readonly context: number;
  readonly kv: KvType;
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
    const { info, program, context, kv, memory } = await planModel(files, options);
    return { ...info, context, kv, memory, program };
  } finally {
    files.close();
  }
}
