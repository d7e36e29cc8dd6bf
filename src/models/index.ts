import { mismatch } from '../errors.js';
import { bamba } from './bamba.js';
import type { ModelDefinition } from './define.js';
import { granitemoehybrid } from './granitemoehybrid.js';
import { jamba } from './jamba.js';
import { llama } from './llama.js';
import { mamba } from './mamba.js';
import { mamba2 } from './mamba2.js';
import { mistral } from './mistral.js';
import { mixtral } from './mixtral.js';
import { nemotronH } from './nemotron-h.js';
import { qwen2 } from './qwen2.js';
import { qwen3 } from './qwen3.js';
import { qwen3Moe } from './qwen3-moe.js';
import { smollm3 } from './smollm3.js';

/** The architectures that `load()` knows. One line a model. */
export const models: readonly ModelDefinition[] = [
  llama,
  smollm3,
  mistral,
  qwen2,
  qwen3,
  mixtral,
  qwen3Moe,
  mamba,
  mamba2,
  jamba,
  bamba,
  granitemoehybrid,
  nemotronH,
];

/** The definition for a `model_type`; those of the caller go first. @throws UNSUPPORTED_ARCHITECTURE naming all that there are. */
export function findModel(type: string, own: readonly ModelDefinition[] = []): ModelDefinition {
  const known = [...own, ...models];
  const found = known.find((model) => model.type === type);
  if (!found)
    throw mismatch('UNSUPPORTED_ARCHITECTURE', 'model_type', known.map((model) => model.type).join(', '), type);
  return found;
}
