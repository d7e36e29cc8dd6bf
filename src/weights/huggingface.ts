import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { CrosscurrentError, mismatch } from '../errors.js';
import { Config, type RawConfig } from './config.js';
import type { Checkpoint, StoredTensor } from './weights.js';

/** Parsing this much takes a few milliseconds; a language model's config is a few KB. */
const mostConfigBytes = 1 << 20;

/**
 * Reads `config.json` of a folder.
 *
 * @throws CrosscurrentError IO, INVALID_FILE, UNSUPPORTED_FORMAT for quantised weights; the reason of `signal`.
 */
export async function readConfig(folder: string, signal?: AbortSignal): Promise<Config> {
  const path = join(folder, 'config.json');
  const raw = parseConfig(path, await readText(path, mostConfigBytes));
  signal?.throwIfAborted();
  const method = raw.quantization_config;
  if (method !== undefined && method !== null) {
    const name =
      typeof method === 'object' && 'quant_method' in method ? String(method.quant_method) : 'quantization_config';
    throw mismatch('UNSUPPORTED_FORMAT', path, 'weights of a float type', name);
  }
  return new Config(raw);
}

async function readText(path: string, mostBytes: number): Promise<string> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > mostBytes) throw mismatch('INVALID_FILE', path, `at most ${mostBytes} bytes`, size);
    return await file.readFile('utf8');
  } catch (cause) {
    if (cause instanceof CrosscurrentError) throw cause;
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
    throw new CrosscurrentError('IO', `${path}: cannot be read (${code})`, { operand: path, cause });
  }
}

/** JSON as Python writes it: `Infinity` and `NaN` may stand for numbers. */
export function parseConfig(path: string, text: string): RawConfig {
  const bare = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g;
  const strict = text.replace(bare, (word) => (word.startsWith('"') ? word : `{"__float__":"${word}"}`));
  let parsed: unknown;
  try {
    parsed = JSON.parse(strict);
  } catch (cause) {
    throw new CrosscurrentError('INVALID_FILE', `${path}: expected JSON, got ${(cause as Error).message}`, {
      operand: path,
      cause,
    });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw mismatch('INVALID_FILE', path, 'an object', Array.isArray(parsed) ? 'an array' : typeof parsed);
  return parsed as RawConfig;
}

/** Other names that checkpoints use for parts of the same models; each is tried where the name of the model file is not there. */
const synonyms: readonly (readonly [pattern: RegExp, other: string])[] = [
  [/^backbone\./, 'model.'],
  [/^backbone\.embeddings\./, 'backbone.embedding.'],
  [/^(model|lm_head)\./, 'language_model.$1.'],
  [/^model\./, 'model.language_model.'],
  [/\.block_sparse_moe\./, '.mlp.'],
  [/\.feed_forward\./, '.moe.'],
  // dense layers of the first Jamba checkpoints
  [/\.feed_forward\.(\w+_proj)\./, '.feed_forward.experts.0.$1.'],
];

/** Tensors under their own names, or a synonym. */
export function safetensorsCheckpoint(tensors: readonly StoredTensor[]): Checkpoint {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const find = (name: string): StoredTensor | undefined => {
    const found = byName.get(name);
    if (found) return found;
    for (const [pattern, other] of synonyms) {
      const renamed = byName.get(name.replace(pattern, other));
      if (renamed) return renamed;
    }
    return undefined;
  };
  return { find, storedName: (name) => find(name)?.name ?? name, transformed: false };
}
