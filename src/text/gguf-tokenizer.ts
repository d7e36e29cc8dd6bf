import { CrosscurrentError, mismatch } from '../errors.js';
import type { MetadataValue } from './gguf-metadata.js';
import type { AddedToken, TokenizerJson } from './tokenizer-json.js';

// The pre-tokenizers of public llama.cpp (src/llama-vocab.cpp), named there by `tokenizer.ggml.pre`.
const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const wordsThen = (numbers: string) =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${numbers}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const llama3 = wordsThen('\\p{N}{1,3}');
const qwen2 = wordsThen('\\p{N}');

const patternsOf: Record<string, readonly string[]> = {
  default: ['[\\p{P}\\$\\+<=>\\^~\\|]+', gpt2, '\\p{N}+', '[0-9][0-9][0-9]'],
  'gpt-2': [gpt2],
  mpt: [gpt2],
  olmo: [gpt2],
  jais: [gpt2],
  trillion: [gpt2],
  smollm: ['\\p{N}', gpt2],
  starcoder: ['\\p{N}', gpt2],
  refact: ['\\p{N}', gpt2],
  'command-r': ['\\p{N}', gpt2],
  codeshell: ['\\p{N}', gpt2],
  exaone: ['\\p{N}', gpt2],
  'llama-bpe': [llama3],
  llama3: [llama3],
  'llama-v3': [llama3],
  dbrx: [llama3],
  'smaug-bpe': [llama3],
  qwen2: [qwen2],
  'deepseek-r1-qwen': [qwen2],
  stablelm2: [qwen2],
};
/** A whole pre-token that is in the vocabulary is taken as it is, and a text begins with the bos token. */
const llama3Rules = new Set(['llama-bpe', 'llama3', 'llama-v3']);

const tokenType = { unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

export type GetMetadata = (key: string) => MetadataValue | undefined;

/** What a tokenizer needs of a GGUF file beside the tokenizer.json form. */
export interface GgufTokenizer {
  json: TokenizerJson;
  special: Record<string, number>;
  endIds: number[];
  chatTemplates: Map<string, string>;
}

function strings(get: GetMetadata, key: string): string[] {
  const found = get(key);
  if (!Array.isArray(found) || found.some((item) => typeof item !== 'string')) {
    throw mismatch('INVALID_FILE', key, 'an array of strings', kind(found));
  }
  return found as string[];
}

function numbers(get: GetMetadata, key: string, length: number): number[] | undefined {
  const found = get(key);
  if (found === undefined) return undefined;
  if (!Array.isArray(found) || found.length !== length || found.some((item) => typeof item !== 'number')) {
    throw mismatch('INVALID_FILE', key, `an array of ${length} numbers`, kind(found));
  }
  return found as number[];
}

function kind(found: MetadataValue | undefined): string {
  return Array.isArray(found) ? `an array of ${found.length}` : found === undefined ? 'nothing' : typeof found;
}

function flag(get: GetMetadata, key: string, otherwise: boolean): boolean {
  const found = get(key) ?? otherwise;
  if (typeof found !== 'boolean') throw mismatch('INVALID_FILE', key, 'a boolean', kind(found));
  return found;
}

function tokenId(get: GetMetadata, name: string, vocab: number): number | undefined {
  const key = `tokenizer.ggml.${name}_token_id`;
  const found = get(key);
  if (found === undefined || found === 0xffffffff || found === -1) return undefined;
  if (typeof found !== 'number' || found < 0 || found >= vocab) {
    throw mismatch('INVALID_FILE', key, `an id below ${vocab}`, String(found));
  }
  return found;
}

/**
 * The metadata of a GGUF file as the parsed form of a tokenizer.json, or nothing when the file has no tokenizer.
 *
 * @throws CrosscurrentError UNSUPPORTED_FORMAT for a model or pre-tokenizer that is not known, INVALID_FILE for metadata
 * that contradicts itself.
 */
export function ggufTokenizerJson(get: GetMetadata): GgufTokenizer | undefined {
  const model = get('tokenizer.ggml.model');
  if (model === undefined || model === 'none' || model === 'no_vocab') return undefined;
  if (model !== 'gpt2' && model !== 'llama') {
    throw mismatch('UNSUPPORTED_FORMAT', 'tokenizer.ggml.model', 'one of gpt2, llama', String(model));
  }
  const tokens = strings(get, 'tokenizer.ggml.tokens');
  const types = numbers(get, 'tokenizer.ggml.token_type', tokens.length);
  const special: Record<string, number> = {};
  for (const [name, key] of Object.entries({
    bos: 'bos',
    eos: 'eos',
    unk: 'unknown',
    pad: 'padding',
    sep: 'seperator',
  })) {
    const id = tokenId(get, key, tokens.length);
    if (id !== undefined) special[name] = id;
  }
  const endIds = ['eos', 'eot', 'eom']
    .map((name) => tokenId(get, name, tokens.length))
    .filter((id) => id !== undefined);

  const added: AddedToken[] = [];
  for (const [id, type] of (types ?? []).entries()) {
    const isControl = type === tokenType.control || (type === tokenType.unknown && model === 'llama');
    if (isControl || type === tokenType.userDefined) {
      added.push({ id, content: tokens[id]!, special: isControl, normalized: false });
    }
  }
  const form = model === 'gpt2' ? byteLevel(get, tokens) : sentencePiece(get, tokens, types, special.unk);
  const json = { ...form.json, added_tokens: added, post_processor: marks(get, tokens, special, form.addsBos) };
  return { json, special, endIds, chatTemplates: chatTemplates(get) };
}

/** Of a token listed twice the first id wins, as in llama.cpp's insertion order. A map: an object of so many keys is slow to make and to read. */
function vocabulary(tokens: readonly string[]): Map<string, number> {
  const vocab = new Map<string, number>();
  for (const [id, token] of tokens.entries()) if (!vocab.has(token)) vocab.set(token, id);
  return vocab;
}

function byteLevel(get: GetMetadata, tokens: readonly string[]) {
  const pre = get('tokenizer.ggml.pre') ?? 'default';
  const patterns = typeof pre === 'string' && Object.hasOwn(patternsOf, pre) ? patternsOf[pre] : undefined;
  if (patterns === undefined) {
    throw mismatch(
      'UNSUPPORTED_FORMAT',
      'tokenizer.ggml.pre',
      `one of ${Object.keys(patternsOf).join(', ')}`,
      String(pre),
    );
  }
  const merges = strings(get, 'tokenizer.ggml.merges');
  const wrong = merges.findIndex((merge) => merge.indexOf(' ', 1) < 0);
  if (wrong >= 0)
    throw mismatch('INVALID_FILE', `tokenizer.ggml.merges[${wrong}]`, 'two tokens and a space', merges[wrong]);
  const isLlama3 = llama3Rules.has(pre as string);
  const json: Omit<TokenizerJson, 'added_tokens' | 'post_processor'> = {
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab: vocabulary(tokens), merges, unk_token: null, ignore_merges: isLlama3 },
  };
  return { json, addsBos: isLlama3 };
}

function sentencePiece(
  get: GetMetadata,
  tokens: readonly string[],
  types: number[] | undefined,
  unk: number | undefined,
) {
  const scores = numbers(get, 'tokenizer.ggml.scores', tokens.length);
  if (scores === undefined)
    throw mismatch('INVALID_FILE', 'tokenizer.ggml.scores', `${tokens.length} numbers`, 'nothing');
  const hasPrefix = flag(get, 'tokenizer.ggml.add_space_prefix', true);
  const space = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const json: Omit<TokenizerJson, 'added_tokens' | 'post_processor'> = {
    normalizer: hasPrefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, space] } : space,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(hasPrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      vocab: vocabulary(tokens),
      merges: mergesByScore(tokens, types, scores),
      unk_token: unk === undefined ? null : tokens[unk]!,
      fuse_unk: true,
      byte_fallback: true,
    },
  };
  return { json, addsBos: true };
}

/** SentencePiece joins the pair whose joint piece has the best score: each way to cut a piece in two, best piece first. */
function mergesByScore(tokens: readonly string[], types: number[] | undefined, scores: readonly number[]): string[][] {
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    const type = types?.[id] ?? 1;
    if (type === 1 || type === tokenType.userDefined) ids.set(token, id);
  }
  const merges: string[][] = [];
  const order = [...ids.values()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  for (const id of order) {
    const characters = Array.from(tokens[id]!);
    const cuts: string[][] = [];
    for (let at = 1; at < characters.length; at++) {
      const left = characters.slice(0, at).join('');
      const right = characters.slice(at).join('');
      if (ids.has(left) && ids.has(right)) cuts.push([left, right]);
    }
    cuts.sort((a, b) => ids.get(a[0]!)! - ids.get(b[0]!)! || ids.get(a[1]!)! - ids.get(b[1]!)!);
    for (const cut of cuts) merges.push(cut);
  }
  return merges;
}

function marks(get: GetMetadata, tokens: readonly string[], special: Record<string, number>, addsBos: boolean) {
  const mark = (id: number | undefined, wanted: boolean) =>
    wanted && id !== undefined ? [{ SpecialToken: { id: tokens[id]!, type_id: 0 } }] : [];
  const single = [
    ...mark(special.bos, flag(get, 'tokenizer.ggml.add_bos_token', addsBos)),
    { Sequence: { id: 'A', type_id: 0 } },
    ...mark(special.eos, flag(get, 'tokenizer.ggml.add_eos_token', false)),
  ];
  return { type: 'TemplateProcessing', single, pair: single, special_tokens: {} };
}

function chatTemplates(get: GetMetadata): Map<string, string> {
  const found = new Map<string, string>();
  for (const [name, key] of [
    ['default', 'tokenizer.chat_template'],
    ['tool_use', 'tokenizer.chat_template.tool_use'],
  ] as const) {
    const template = get(key);
    if (template === undefined) continue;
    if (typeof template !== 'string') throw new CrosscurrentError('INVALID_FILE', `${key}: expected a string`);
    found.set(name, template);
  }
  return found;
}
