import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CrosscurrentError, mismatch } from '../errors.js';
import { readGgufMetadata } from './gguf-metadata.js';
import { ggufTokenizerJson } from './gguf-tokenizer.js';
import { checkTokenizerJson, isObject, type TokenizerJson } from './tokenizer-json.js';

/** Where a tokenizer comes from: a Hugging Face folder or the metadata of a GGUF file. */
export interface TokenizerSource {
  kind: 'folder' | 'gguf';
  path: string;
}

/** Everything read from a source. `special` maps `bos`, `eos`, … to the token's text. */
export interface TokenizerFiles {
  json: TokenizerJson;
  special: Record<string, string>;
  endIds: number[];
  endTokens: string[];
  chatTemplates: Map<string, string>;
}

/** Reads a source, in the worker. Nothing when there is no tokenizer in it. */
export function readTokenizer(source: TokenizerSource): TokenizerFiles | undefined {
  try {
    return source.kind === 'gguf' ? readGguf(source.path) : readFolder(source.path);
  } catch (error) {
    if (error instanceof CrosscurrentError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new CrosscurrentError('IO', `${source.path}: cannot be read (${code ?? 'unknown error'})`, { cause: error });
  }
}

function readGguf(path: string): TokenizerFiles | undefined {
  const metadata = readGgufMetadata(path, 'tokenizer.');
  const found = ggufTokenizerJson((key) => metadata.get(key));
  if (found === undefined) return undefined;
  const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
  const special = Object.fromEntries(Object.entries(found.special).map(([name, id]) => [name, tokens[id]!]));
  return { json: found.json, special, endIds: found.endIds, endTokens: [], chatTemplates: found.chatTemplates };
}

function readFolder(path: string): TokenizerFiles | undefined {
  statSync(path);
  const json = readJson(join(path, 'tokenizer.json'));
  if (json === undefined) return undefined;
  const config = readObject(join(path, 'tokenizer_config.json'));
  const special: Record<string, string> = {};
  // Later files win: the map is what older exports keep beside a config without tokens
  for (const tokens of [readObject(join(path, 'special_tokens_map.json')), config]) {
    for (const [name, token] of Object.entries(tokens)) {
      const text = isObject(token) ? token.content : token;
      if (name.endsWith('_token') && typeof text === 'string') special[name.slice(0, -'_token'.length)] = text;
    }
  }
  const generation = readObject(join(path, 'generation_config.json'));
  const model = readObject(join(path, 'config.json'));
  const endIds = [generation.eos_token_id, model.eos_token_id].flat().filter((id) => Number.isInteger(id)) as number[];
  return {
    json: checkTokenizerJson(json, join(path, 'tokenizer.json')),
    special,
    endIds,
    endTokens: special.eos === undefined ? [] : [special.eos],
    chatTemplates: folderTemplates(path, config),
  };
}

/** A `chat_template.jinja` wins over the config, which holds one template or a list of named ones. */
function folderTemplates(path: string, config: Record<string, unknown>): Map<string, string> {
  const found = new Map<string, string>();
  const stored = config.chat_template ?? [];
  const named = typeof stored === 'string' ? [{ name: 'default', template: stored }] : stored;
  if (!Array.isArray(named)) {
    throw mismatch(
      'INVALID_FILE',
      join(path, 'tokenizer_config.json'),
      'a chat_template or a list of named ones',
      stored,
    );
  }
  for (const entry of named) {
    if (!isObject(entry) || typeof entry.name !== 'string' || typeof entry.template !== 'string') {
      throw mismatch(
        'INVALID_FILE',
        join(path, 'tokenizer_config.json'),
        'chat templates with name and template',
        entry,
      );
    }
    found.set(entry.name, entry.template);
  }
  const file = readText(join(path, 'chat_template.jinja'));
  if (file !== undefined) found.set('default', file);
  return found;
}

function readText(path: string): string | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new CrosscurrentError('INVALID_FILE', `${path}: expected UTF-8`, { cause });
  }
}

function readJson(path: string): unknown {
  const text = readText(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CrosscurrentError('INVALID_FILE', `${path}: expected JSON, got ${(cause as Error).message}`, { cause });
  }
}

function readObject(path: string): Record<string, unknown> {
  const found = readJson(path) ?? {};
  if (!isObject(found)) throw mismatch('INVALID_FILE', path, 'an object', found);
  return found;
}
