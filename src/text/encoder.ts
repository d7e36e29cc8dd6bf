import { Tokenizer as Library } from '@huggingface/tokenizers';
import { CrosscurrentError } from '../errors.js';
import { type ByteTable, byteOfCharacter, type Probe, packBytes, pieceBytes } from './byte-table.js';
import type { TokenizerFiles } from './sources.js';
import type { Component, TokenizerJson } from './tokenizer-json.js';

/** Texts longer than this are encoded in parts, so that the worker can serve others and see an abort in between. */
export const partCharacters = 1 << 14;

/** Tokens that end a generation wherever they are special tokens of the vocabulary, whatever the config says. */
const endOfTurn = [
  '<|im_end|>',
  '<|endoftext|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end_of_text|>',
  '<end_of_turn>',
  '<|end_of_turn|>',
  '<|END_OF_TURN_TOKEN|>',
  '<｜end▁of▁sentence｜>',
];

export interface EncodeOptions {
  addSpecialTokens: boolean;
  parseSpecial: boolean;
}

/** The library's tokenizer with what it misses of the reference put right around it (see `corrected`). Lives in the worker. */
export class Encoder {
  private readonly library: Library;
  /** Shares the library's model but knows no special tokens: their text is plain text. */
  private readonly plain: Library;
  private readonly prefix: readonly number[];
  private readonly suffix: readonly number[];
  private readonly cuts: boolean;
  readonly table: ByteTable;
  readonly decodesByBytes: boolean;
  readonly special: Record<string, { id: number; text: string }> = {};
  readonly endIds: number[];

  constructor(files: TokenizerFiles) {
    const json = corrected(files.json);
    this.library = build(json);
    const model = this.library.model!;
    this.plain = build({
      ...json,
      added_tokens: json.added_tokens.filter((token) => !token.special),
      model: { type: 'BPE', vocab: {}, merges: [] },
    });
    this.plain.model = model;

    const [prefix, suffix] = this.marks();
    this.prefix = prefix;
    this.suffix = suffix;
    this.cuts = this.splitsAtSpaces(json);

    const hidden = new Set(json.added_tokens.filter((token) => token.special).map((token) => token.id));
    const pieces = pieceBytes(json.decoder, this.probe());
    this.decodesByBytes = pieces.isExact;
    this.table = packBytes(Array.from(model.vocab), hidden, pieces);

    const idOf = (text: string) => model.tokens_to_ids.get(text);
    for (const [name, text] of Object.entries(files.special)) {
      const id = idOf(text);
      if (id !== undefined) this.special[name] = { id, text };
    }
    const ends = [
      ...files.endTokens.map(idOf),
      ...endOfTurn.map(idOf).filter((id) => id !== undefined && hidden.has(id)),
    ];
    this.endIds = [...new Set([...files.endIds, ...ends])].filter((id) => id !== undefined);
    release(this.library);
    release(this.plain);
  }

  /** The ids of a text in parts, each part a list: between two parts the caller may do other work. */
  *encode(text: string, options: EncodeOptions): Generator<readonly number[]> {
    const library = options.parseSpecial ? this.library : this.plain;
    if (options.addSpecialTokens) yield this.prefix;
    for (const part of this.cuts ? parts(text) : [text]) {
      yield library.encode(part, { add_special_tokens: false }).ids;
    }
    if (options.addSpecialTokens) yield this.suffix;
  }

  /** By the library, for decoders that do not simply join bytes. */
  decode(ids: readonly number[], skipSpecialTokens: boolean): string {
    if (ids.length === 0) return '';
    return this.library.decode([...ids], {
      skip_special_tokens: skipSpecialTokens,
      clean_up_tokenization_spaces: false,
    });
  }

  /** What the post-processor puts before and after a text. */
  private marks(): [number[], number[]] {
    const probe = 'a';
    const bare = this.library.encode(probe, { add_special_tokens: false }).ids;
    const marked = this.library.encode(probe, { add_special_tokens: true }).ids;
    for (let at = 0; at + bare.length <= marked.length; at++) {
      const matches = bare.every((id: number, i: number) => marked[at + i] === id);
      if (matches) return [marked.slice(0, at), marked.slice(at + bare.length)];
    }
    throw new CrosscurrentError('UNSUPPORTED_FORMAT', 'post_processor: expected one that keeps the text in one piece');
  }

  /**
   * Whether a text can be cut between a letter and the space before the next word, and after a line break between a word's
   * end and a letter, with no change of its ids: the pre-tokenizer cuts there itself, and nothing else reaches across.
   */
  private splitsAtSpaces(json: TokenizerJson): boolean {
    const isLocal = json.normalizer === null || /^NFK?[CD]$/.test(json.normalizer.type);
    const crosses = json.added_tokens.some((token) => /\s/.test(token.content));
    const preTokenizer = this.library.pre_tokenizer;
    if (!isLocal || crosses || preTokenizer === null) return false;
    const pieces = (text: string) => preTokenizer(text).join('\u0000');
    return [
      ['the', ' cat'],
      ['A', ' B'],
      ['日', ' 本'],
      ['it\n', 'is'],
      ['.\n', 'B'],
      ['1\n', '本'],
    ].every(([left, right]) => pieces(left! + right!) === `${pieces(left!)}\u0000${pieces(right!)}`);
  }

  private probe(): Probe {
    const alone = (id: number) => this.decode([id], false);
    const first = 0;
    const firstText = alone(first);
    const after = (id: number) => {
      const both = this.decode([first, id], false);
      return both.startsWith(firstText) ? both.slice(firstText.length) : alone(id);
    };
    return {
      sample: Array.from({ length: Math.min(64, this.library.model!.vocab.length) }, (_, id) => id),
      alone,
      after,
    };
  }
}

function build(json: TokenizerJson): Library {
  try {
    if (!(json.model.vocab instanceof Map)) return new Library(json, {});
    const library = new Library({ ...json, model: { ...json.model, vocab: {}, merges: [] } }, {});
    fill(library, json.model);
    return library;
  } catch (cause) {
    const { message } = cause as Error;
    const isUnknown = /^Unknown \w+ type/.test(message);
    throw new CrosscurrentError(isUnknown ? 'UNSUPPORTED_FORMAT' : 'INVALID_FILE', `tokenizer.json: ${message}`, {
      cause,
    });
  }
}

/**
 * Gives a library that was made without vocabulary and merges what it would have made of them, without the objects and lists between; added tokens, which
 * it has, stay as they are.
 */
function fill(library: Library, { vocab, merges, unk_token: unknown }: Component): void {
  const model = library.model as NonNullable<Library['model']> & { bpe_ranks: Map<string, number> };
  for (const [token, id] of vocab as ReadonlyMap<string, number>) {
    if (!model.tokens_to_ids.has(token)) model.tokens_to_ids.set(token, id);
    model.vocab[id] ??= token;
  }
  if (typeof unknown === 'string') model.unk_token_id = model.tokens_to_ids.get(unknown);
  for (const [rank, merge] of (merges as readonly (string | readonly string[])[]).entries()) {
    const at = typeof merge === 'string' ? merge.indexOf(' ', 1) : 0;
    const pair = typeof merge === 'string' ? [merge.slice(0, at), merge.slice(at + 1)] : merge;
    model.bpe_ranks.set(JSON.stringify(pair), rank);
  }
}

/** Lets go of the parsed file, which the library keeps but, once built, reads only the small settings of: half of its memory. */
function release(library: Library): void {
  const held = library as unknown as { tokenizer: unknown; model: { config: object; merges?: unknown } };
  held.tokenizer = undefined;
  held.model.config = { ...held.model.config, vocab: undefined, merges: undefined };
  held.model.merges = undefined;
}

/** The parts of a text, each about `partCharacters` long, cut where `splitsAtSpaces` allows. */
function* parts(text: string): Generator<string> {
  const cut = /(?<=\p{L})(?= \p{L})|(?<=\S\n)(?=\p{L})/gu;
  let start = 0;
  while (text.length - start > partCharacters) {
    cut.lastIndex = start + partCharacters;
    const end = cut.exec(text)?.index;
    if (end === undefined) break;
    yield text.slice(start, end);
    start = end;
  }
  yield text.slice(start);
}

/**
 * The library differs from the reference in four places, each put right in the configuration:
 *
 * 1. `Digits` splits at `\d`; the reference at every numeric character (`²`, `½`, `Ⅷ`).
 * 2. `ByteLevel` finds words by JavaScript's `\s`, which has U+FEFF and lacks U+0085; its `Split` uses Unicode's White_Space.
 * 3. Bytes that are not in the vocabulary vanish after merging; in the reference before, so their neighbours can merge.
 * 4. A text without a pre-tokenizer is one word, merged as a whole: slow, and hungry for memory. Where no token of the
 *    vocabulary has the space sign after another character, cutting before the sign changes nothing.
 */
function corrected(json: TokenizerJson): TokenizerJson {
  const { model } = json;
  const vocab = model.vocab as Record<string, number> | Map<string, number>;
  const has = (token: string): boolean => (vocab instanceof Map ? vocab.has(token) : Object.hasOwn(vocab, token));
  let preTokenizer = json.pre_tokenizer === null ? null : corrections(json.pre_tokenizer);
  const isBpe = model.type === 'BPE' && (model.unk_token ?? null) === null && !model.byte_fallback;
  if (isBpe && preTokenizer !== null && JSON.stringify(preTokenizer).includes('"ByteLevel"')) {
    const missing = [...byteOfCharacter.keys()].filter((character) => !has(character));
    const Regex = `[${missing.map((character) => `\\x{${character.codePointAt(0)!.toString(16)}}`).join('')}]`;
    const drop = { type: 'Replace', pattern: { Regex }, content: '' };
    if (missing.length > 0) preTokenizer = { type: 'Sequence', pretokenizers: [preTokenizer, drop] };
  }
  const isUnsplit = preTokenizer === null && model.type === 'BPE';
  const tokens = (): string[] => (vocab instanceof Map ? [...vocab.keys()] : Object.keys(vocab));
  if (isUnsplit && !tokens().some((token) => /[^▁]▁/.test(token))) {
    preTokenizer = { type: 'Split', pattern: { Regex: '▁+[^▁]*' }, behavior: 'Isolated', invert: false };
  }
  return { ...json, pre_tokenizer: preTokenizer };
}

const gpt2Words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

function corrections(part: Component): Component {
  if (part.type === 'Sequence' && Array.isArray(part.pretokenizers)) {
    return { ...part, pretokenizers: part.pretokenizers.map((inner) => corrections(inner as Component)) };
  }
  const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
  if (part.type === 'Digits') return split(part.individual_digits ? '\\p{N}' : '\\p{N}+');
  if (part.type === 'ByteLevel' && (part.use_regex ?? true) && !part.add_prefix_space) {
    return { type: 'Sequence', pretokenizers: [split(gpt2Words), { ...part, use_regex: false }] };
  }
  return part;
}
