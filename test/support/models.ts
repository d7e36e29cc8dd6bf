// Where the real models and their goldens are, and why a test that needs them is skipped.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const fromRoot = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export const goldenFolder = fromRoot('../shared/models/golden/');
export const parityFolder = fromRoot('../shared/parity/');
export const tinyGguf = fromRoot('models/tiny/crosscurrent-tiny.Q4_1.gguf');
export const tinyFolder = fromRoot('../shared/models/tiny');
export const smollm2Gguf = fromRoot('.cache/SmolLM2-135M-Instruct.Q4_1.gguf');

/** The first of the paths that is not there, as a reason to skip; undefined when all are. */
export function missing(...paths: string[]): string | undefined {
  const path = paths.find((each) => !existsSync(each));
  return path && `${path} is not there (see CONTRIBUTING.md, "Test data")`;
}

/** Tiny models of every architecture, in `parityFolder`. */
export const fixtureNames = [
  'llama',
  'llama_rope_llama3',
  'llama_rope_yarn',
  'smollm3',
  'mistral_window',
  'qwen2',
  'qwen3',
  'mixtral',
  'qwen3_moe',
  'mamba',
  'mamba2',
  'mamba2_groups',
  'jamba',
  'bamba',
  'granitemoehybrid',
  'granitemoehybrid_dense_rope',
  'nemotron_h',
] as const;
