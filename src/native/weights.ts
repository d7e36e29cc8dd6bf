import type { WeightSpec } from '../graph/graph.js';
import { turn } from '../turn.js';
import { addon } from './addon.js';
import type { TensorFile } from './file.js';
import { type JobOptions, runJob } from './job.js';
import type { NativeProgram } from './program.js';
import type { SpecsHandle, WeightsHandle } from './types.js';

/** Weights as the device holds them. */
export class NativeWeights {
  readonly handle: WeightsHandle;
  readonly bytes: number;

  constructor(handle: WeightsHandle) {
    this.handle = handle;
    this.bytes = addon().weightsBytes(handle);
  }

  close(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Parts of weights described in one call: less than a millisecond's worth. */
const partsATurn = 32;

async function describe(weights: readonly WeightSpec[]): Promise<SpecsHandle> {
  const native = addon();
  const specs = native.newSpecs();
  for (let start = 0; start < weights.length; ) {
    let end = start;
    for (let parts = 0; end < weights.length && parts < partsATurn; end++) parts += 1 + weights[end]!.parts.length;
    native.addSpecs(specs, weights.slice(start, end));
    start = end;
    if (start < weights.length) await turn();
  }
  return specs;
}

/**
 * Reads, checks and packs the weights of a program.
 *
 * @throws CrosscurrentError MISSING_TENSORS, listing every missing or misshapen one, FILE_CHANGED, IO, OUT_OF_MEMORY; the reason of
 *   `signal`.
 */
export async function loadWeights(
  file: TensorFile,
  program: NativeProgram,
  weights: readonly WeightSpec[],
  options: JobOptions = {},
): Promise<NativeWeights> {
  options.signal?.throwIfAborted();
  const specs = await describe(weights);
  const handle = await runJob(options, (control) => addon().loadWeights(file.handle, program.handle, specs, control));
  return new NativeWeights(handle);
}
