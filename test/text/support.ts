import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import type { TokenizerSource } from '../../src/text/index.js';

const root = new URL('../../', import.meta.url);
export const repositoryPath = (path: string): string => fileURLToPath(new URL(path, root));

const models = repositoryPath('../shared/models');
export const tinyFolder = `${models}/tiny`;
export const tinyGguf = `${models}/crosscurrent-tiny.Q4_1.gguf`;
export const smolGguf = repositoryPath('.cache/SmolLM2-135M-Instruct.Q4_1.gguf');

/** Why the tests of a file are skipped, or nothing when it is there. */
export const missing = (path: string): string | undefined => (existsSync(path) ? undefined : `${path} is not there`);

export const sources: readonly TokenizerSource[] = [
  { kind: 'folder', path: tinyFolder },
  { kind: 'gguf', path: tinyGguf },
  { kind: 'gguf', path: smolGguf },
];

export const tokenizerGolden = `${models}/golden/tokenizer.golden.json`;
export const chatGolden = `${models}/golden/chat.golden.json`;

export const readJson = <T>(path: string): T => JSON.parse(readFileSync(path, 'utf8')) as T;
export const unzip = (base64: string): string => gunzipSync(Buffer.from(base64, 'base64')).toString();
