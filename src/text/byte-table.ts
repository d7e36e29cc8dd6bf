import { type Component, isObject } from './tokenizer-json.js';

/** The bytes of every token, in one block: `bytes[offsets[id] … offsets[id + 1]]`. */
export interface ByteTable {
  /** One more than the largest id. */
  size: number;
  bytes: Uint8Array<ArrayBuffer>;
  offsets: Uint32Array<ArrayBuffer>;
  flags: Uint8Array<ArrayBuffer>;
  /** The decoder drops a space at the very start of a text. */
  stripsFirstSpace: boolean;
}

/** A flag of the table: the token is special, so skipping special tokens hides it. */
export const hiddenToken = 1;

/** How the bytes of a token follow from its string. */
export interface PieceBytes {
  /** Exact: joined bytes are the text. Otherwise the table is the best guess for streaming (see `Probe`). */
  isExact: boolean;
  stripsFirstSpace: boolean;
  write(token: string, id: number, into: ByteSink): void;
}

/** One growing block: an array a token would be a hundred thousand pieces of garbage. */
export class ByteSink {
  bytes: Uint8Array<ArrayBuffer>;
  end = 0;

  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity);
  }

  /** Makes room for that many bytes more. */
  reserve(bytes: number): void {
    if (this.end + bytes <= this.bytes.length) return;
    const grown = new Uint8Array((this.end + bytes) * 2);
    grown.set(this.bytes.subarray(0, this.end));
    this.bytes = grown;
  }

  text(text: string): void {
    this.reserve(text.length * 3); // at most three bytes of UTF-8 a unit of UTF-16
    this.end += utf8.encodeInto(text, this.bytes.subarray(this.end)).written;
  }
}

/** The text of a token as the library decodes it: by itself, or after another. */
export interface Probe {
  sample: readonly number[];
  alone(id: number): string;
  after(id: number): string;
}

const utf8 = new TextEncoder();

/** GPT-2's printable stand-ins for bytes: 33-126, 161-172 and 174-255 are themselves, the rest follow from 256 on. */
export const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    map.set(String.fromCharCode(isPrintable ? byte : next++), byte);
  }
  return map;
})();

const byteOfUnit = new Int16Array(512).fill(-1);
for (const [character, byte] of byteOfCharacter) byteOfUnit[character.charCodeAt(0)] = byte;

function byteLevelBytes(token: string, _id: number, into: ByteSink): void {
  into.reserve(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfUnit[token.charCodeAt(i)] ?? -1;
    if (byte < 0) {
      into.text(token); // an added token that is not in the byte alphabet is itself
      return;
    }
    into.bytes[into.end + i] = byte;
  }
  into.end += token.length;
}

function sentencePieceBytes(token: string, _id: number, into: ByteSink): void {
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  if (byte === null) {
    into.text(token.replaceAll('▁', ' '));
    return;
  }
  into.reserve(1);
  into.bytes[into.end++] = Number.parseInt(byte[1]!, 16);
}

function flatten(decoder: Component | null): Component[] {
  if (decoder === null) return [];
  if (decoder.type !== 'Sequence' || !Array.isArray(decoder.decoders)) return [decoder];
  return decoder.decoders.flatMap((inner) => flatten(inner as Component));
}

/**
 * ByteLevel and SentencePiece decoders join the bytes of the tokens. One difference is kept from the reference for
 * SentencePiece: there a run of byte tokens that is not UTF-8 gives one U+FFFD a byte, here one a maximal invalid part.
 *
 * Any other decoder is asked for each token after a fixed first one (`Probe`): exact where a token's text does not depend
 * on its neighbours, which is all a synchronous stream can do; `Tokenizer.decode` then asks the library for the whole.
 */
export function pieceBytes(decoder: Component | null, probe: Probe): PieceBytes {
  const steps = flatten(decoder);
  const types = steps.map((step) => step.type).join(' ');
  if (types === 'ByteLevel') return { isExact: true, stripsFirstSpace: false, write: byteLevelBytes };
  const spaces = steps.find((step) => step.type === 'Replace');
  const isSpace = isObject(spaces?.pattern) && spaces.pattern.String === '▁' && spaces.content === ' ';
  if (isSpace && /^Replace ByteFallback Fuse( Strip)?$/.test(types)) {
    const strip = steps.find((step) => step.type === 'Strip');
    if (strip === undefined || (strip.content === ' ' && strip.start === 1 && !strip.stop)) {
      return { isExact: true, stripsFirstSpace: strip !== undefined, write: sentencePieceBytes };
    }
  }
  const stripsFirstSpace = probe.sample.some((id) => probe.after(id) === ` ${probe.alone(id)}`);
  return { isExact: false, stripsFirstSpace, write: (_, id, into) => into.text(probe.after(id)) };
}

/** Packs the table; `tokens[id]` is undefined where the vocabulary has a hole. */
export function packBytes(
  tokens: readonly (string | undefined)[],
  special: ReadonlySet<number>,
  pieces: PieceBytes,
): ByteTable {
  const offsets = new Uint32Array(tokens.length + 1);
  const flags = new Uint8Array(tokens.length);
  const sink = new ByteSink(tokens.length * 8);
  for (let id = 0; id < tokens.length; id++) {
    const token = tokens[id];
    if (token !== undefined) pieces.write(token, id, sink);
    if (special.has(id)) flags[id] = hiddenToken;
    offsets[id + 1] = sink.end;
  }
  const bytes = sink.bytes.slice(0, sink.end);
  return { size: tokens.length, bytes, offsets, flags, stripsFirstSpace: pieces.stripsFirstSpace };
}
