import { createHash } from 'node:crypto';
import type { ModelFiles } from './open.js';

/**
 * 16 hexadecimal digits that differ between models: of the architecture, the config, and names, types, shapes and a sample of the stored tensors.
 * How the model is loaded does not count.
 */
export async function fingerprintOf({ config, file }: ModelFiles): Promise<string> {
  const settings = Object.entries(config.raw).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256')
    .update(JSON.stringify([config.modelType, settings]))
    .update(await file.digest())
    .digest('hex')
    .slice(0, 16);
}
