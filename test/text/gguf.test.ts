import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CrosscurrentError } from '../../src/errors.js';
import { byteOfCharacter } from '../../src/text/byte-table.js';
import { Encoder } from '../../src/text/encoder.js';
import { type MetadataValue, readGgufMetadata } from '../../src/text/gguf-metadata.js';
import { ggufTokenizerJson } from '../../src/text/gguf-tokenizer.js';
import { readTokenizer } from '../../src/text/sources.js';
import { TokenStream } from '../../src/text/stream.js';

type Metadata = Record<string, MetadataValue>;
const fails = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) });

/** Names below `tokenizer.ggml.`, but for the chat template. */
function convert(metadata: Metadata) {
  return ggufTokenizerJson((key) => metadata[key.replace(/^tokenizer\.(ggml\.)?/, '')]);
}

function encoderOf(metadata: Metadata): Encoder {
  const found = convert(metadata)!;
  const tokens = metadata.tokens as string[];
  const special = Object.fromEntries(Object.entries(found.special).map(([name, id]) => [name, tokens[id]!]));
  return new Encoder({ ...found, special, endTokens: [] });
}

const encode = (encoder: Encoder, text: string, addSpecialTokens = false, parseSpecial = false) =>
  [...encoder.encode(text, { addSpecialTokens, parseSpecial })].flat();
const decode = (encoder: Encoder, ids: number[]) => {
  const stream = new TokenStream(encoder.table);
  return stream.pushAll(ids, 0, ids.length) + stream.end();
};

const bytes = [...byteOfCharacter.keys()];
/** Every byte, and the merges of a few words and of digits by two and three. */
const gpt2: Metadata = {
  model: 'gpt2',
  pre: 'gpt-2',
  tokens: ['<s>', '</s>', ...bytes, '12', '123', 'ab', 'abc', 'Ġa', '!Ċ'],
  token_type: [3, 3, ...bytes.map(() => 1), 1, 1, 1, 1, 1, 1],
  merges: ['1 2', '12 3', 'a b', 'ab c', 'Ġ a', '! Ċ'],
  bos_token_id: 0,
  eos_token_id: 1,
  eot_token_id: 1,
};

describe('byte-level BPE from GGUF metadata', () => {
  // A text that the pre-tokenizers cut differently: digits, and whether a line break belongs to the marks before it
  it.each([
    ['gpt-2', ['123', '4', ' ', '!', '!', '\n', 'x']],
    ['smollm', ['1', '2', '3', '4', ' ', '!', '!', '\n', 'x']],
    ['refact', ['1', '2', '3', '4', ' ', '!', '!', '\n', 'x']],
    ['llama-bpe', ['123', '4', ' ', '!', '!\n', 'x']],
    ['dbrx', ['123', '4', ' ', '!', '!\n', 'x']],
    ['qwen2', ['1', '2', '3', '4', ' ', '!', '!\n', 'x']],
    ['default', ['123', '4', ' ', '!', '!', '\n', 'x']],
  ])('%s', (pre, pieces) => {
    const encoder = encoderOf({ ...gpt2, pre });
    expect(encode(encoder, '1234 !!\nx').map((id) => decode(encoder, [id]))).toEqual(pieces);
  });

  it('llama-bpe begins with bos, and takes a pre-token that is a token as it is', () => {
    const encoder = encoderOf({ ...gpt2, pre: 'llama-bpe', merges: [] });
    const tokens = gpt2.tokens as string[];
    expect(encode(encoder, 'abc', true)).toEqual([0, tokens.indexOf('abc')]);
    expect(encode(encoderOf({ ...gpt2, merges: [] }), 'abc', true).length).toBe(3);
    const marked = encoderOf({ ...gpt2, add_bos_token: true, add_eos_token: true });
    expect(encode(marked, 'abc', true)).toEqual([0, tokens.indexOf('abc'), 1]);
  });

  it('keeps special tokens in a text apart from what a user typed', () => {
    const encoder = encoderOf(gpt2);
    expect(encode(encoder, 'abc</s>', false, true).at(-1)).toBe(1);
    expect(encode(encoder, '</s>').length).toBe(4);
    expect(encoder.endIds).toEqual([1]);
  });

  it('names what it supports', () => {
    const unknown = { ...gpt2, pre: 'astral' };
    expect(() => convert(unknown)).toThrow(fails('UNSUPPORTED_FORMAT', 'one of default, gpt-2'));
    expect(() => convert(unknown)).toThrow(fails('UNSUPPORTED_FORMAT', 'astral'));
    expect(() => convert({ model: 't5' })).toThrow(fails('UNSUPPORTED_FORMAT', 'gpt2, llama'));
    expect(convert({})).toBeUndefined();
    expect(convert({ model: 'none' })).toBeUndefined();
  });

  it.each([
    ['tokens', 'no array'],
    ['tokens', [1, 2]],
    ['token_type', [1]],
    ['merges', 'ab'],
    ['merges', ['nospace']],
    ['bos_token_id', 4096],
    ['eos_token_id', -5],
    ['eos_token_id', 'two'],
    ['add_bos_token', 'yes'],
    ['chat_template', 7],
  ] as [string, MetadataValue][])('%s = %j is INVALID_FILE', (key, wrong) => {
    expect(() => convert({ ...gpt2, [key]: wrong })).toThrow(fails('INVALID_FILE', key));
  });
});

const hex = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
const pieces = [
  ...[
    '▁',
    'a',
    'b',
    'c',
    'd',
    'e',
    '▁a',
    'ab',
    'bc',
    'abc',
    '▁ab',
    'cd',
    'de',
    'cde',
    '▁▁',
    'bcd',
    'ea',
    '▁abc',
    'aa',
    'aaa',
  ],
];
const control = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, byte) => hex(byte))];
const llama: Metadata = {
  model: 'llama',
  tokens: [...control, ...pieces],
  token_type: [2, 3, 3, ...Array(256).fill(6), ...pieces.map(() => 1)],
  // Not in the order of the ids, so that the score decides
  scores: [
    ...control.map(() => 0),
    ...pieces.map((piece, i) => (Array.from(piece).length < 2 ? -1000 : -((i * 7) % 20))),
  ],
  bos_token_id: 1,
  eos_token_id: 2,
  unknown_token_id: 0,
};

/** SentencePiece as its paper has it: the best-scored pair is joined, the leftmost of equals, until none is left. */
function referenceIds(text: string): number[] {
  const tokens = llama.tokens as string[];
  const scores = llama.scores as number[];
  const parts = Array.from(text === '' ? '' : `▁${text.replaceAll(' ', '▁')}`);
  for (;;) {
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = tokens.indexOf(parts[i]! + parts[i + 1]!);
      if (id >= 0 && scores[id]! > bestScore) [best, bestScore] = [i, scores[id]!];
    }
    if (best < 0) break;
    parts.splice(best, 2, parts[best]! + parts[best + 1]!);
  }
  return parts.flatMap((part) =>
    tokens.includes(part) ? [tokens.indexOf(part)] : [...Buffer.from(part)].map((byte) => tokens.indexOf(hex(byte))),
  );
}

describe('SentencePiece BPE from GGUF metadata', () => {
  const encoder = encoderOf(llama);

  it('joins by score, falls back to bytes, and comes back whole', () => {
    const text = fc.stringMatching(/^[abcde é]{0,24}$/u);
    fc.assert(
      fc.property(text, (text) => {
        const ids = encode(encoder, text);
        expect(ids).toEqual(referenceIds(text));
        expect(decode(encoder, ids)).toBe(text);
      }),
      { seed: 3, numRuns: 2000 },
    );
  });

  it('begins with bos and drops the space of the first word alone', () => {
    const ids = encode(encoder, 'abc abc', true);
    expect(ids[0]).toBe(1);
    expect(decode(encoder, ids.slice(1))).toBe('abc abc');
    const going = new TokenStream(encoder.table, { continues: true });
    expect(going.pushAll(ids, 1, ids.length)).toBe(' abc abc');
    const unprefixed = encoderOf({ ...llama, add_space_prefix: false });
    expect(decode(unprefixed, encode(unprefixed, ' abc'))).toBe(' abc');
  });

  it('needs scores', () => {
    const { scores, ...rest } = llama;
    expect(() => convert(rest)).toThrow(fails('INVALID_FILE', 'scores'));
  });
});

describe('a GGUF file', () => {
  let scratch: string;
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'crosscurrent-gguf-'));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
  const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
  const string = (text: string) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)]);
  const array = (type: number, items: Buffer[]) => Buffer.concat([u32(9), u32(type), u64(items.length), ...items]);

  /** A small but whole file: strings, numbers, flags, and arrays that are skipped. */
  function file(): Buffer {
    const pairs: [string, Buffer][] = [
      ['general.architecture', Buffer.concat([u32(8), string('llama')])],
      ['general.languages', array(8, [string('en'), string('de')])],
      ['llama.heads', array(4, [u32(1), u32(2)])],
      ['tokenizer.ggml.model', Buffer.concat([u32(8), string('gpt2')])],
      ['tokenizer.ggml.tokens', array(8, (gpt2.tokens as string[]).map(string))],
      ['tokenizer.ggml.token_type', array(5, (gpt2.token_type as number[]).map(u32))],
      ['tokenizer.ggml.merges', array(8, (gpt2.merges as string[]).map(string))],
      ['tokenizer.ggml.bos_token_id', Buffer.concat([u32(4), u32(0)])],
      ['tokenizer.ggml.add_bos_token', Buffer.concat([u32(7), Buffer.of(1)])],
      ['tokenizer.chat_template', Buffer.concat([u32(8), string('{{ bos_token }}')])],
    ];
    const body = pairs.map(([key, value]) => Buffer.concat([string(key), value]));
    return Buffer.concat([Buffer.from('GGUF'), u32(3), u64(0), u64(pairs.length), ...body]);
  }

  const read = (content: Buffer) => {
    const path = join(scratch, 'model.gguf');
    writeFileSync(path, content);
    return readTokenizer({ kind: 'gguf', path });
  };

  it('gives its tokenizer', () => {
    const found = read(file())!;
    expect(found.chatTemplates.get('default')).toBe('{{ bos_token }}');
    expect(found.special).toEqual({ bos: '<s>' });
    expect(readGgufMetadata(join(scratch, 'model.gguf'), 'tokenizer.').has('general.languages')).toBe(false);
  });

  it('that is cut short is INVALID_FILE at every length', () => {
    const whole = file();
    for (let length = 0; length < whole.length; length += length < 400 ? 1 : 37) {
      expect(() => read(whole.subarray(0, length)), `${length} bytes`).toThrow(fails('INVALID_FILE'));
    }
  });

  it('with any bytes changed gives a tokenizer or a typed error', () => {
    const whole = file();
    const change = fc.record({ at: fc.nat(whole.length - 1), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const content = Buffer.from(whole);
        for (const { at, to } of changes) content[at] = to;
        try {
          const found = read(content);
          if (found) new Encoder(found);
        } catch (error) {
          if (!(error instanceof CrosscurrentError)) throw error;
        }
      }),
      { seed: 11, numRuns: 1500 },
    );
  }, 120_000);

  it.each([
    ['another magic', (content: Buffer) => content.write('GGML'), 'INVALID_FILE', 'magic'],
    ['another version', (content: Buffer) => content.writeUInt32LE(9, 4), 'UNSUPPORTED_FORMAT', 'version'],
    ['a count that overflows', (content: Buffer) => content.fill(255, 16, 24), 'INVALID_FILE', 'pairs'],
    ['a length that overflows', (content: Buffer) => content.fill(255, 24, 32), 'INVALID_FILE', 'length'],
    ['a key that is not UTF-8', (content: Buffer) => content.fill(255, 32, 34), 'INVALID_FILE', 'UTF-8'],
  ])('with %s fails', (_, damage, code, message) => {
    const content = file();
    damage(content);
    expect(() => read(content)).toThrow(fails(code, message));
  });
});
