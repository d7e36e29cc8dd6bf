import { crc32 } from 'node:zlib';
import { CrosscurrentError, mismatch } from '../errors.js';
import { pieceBytes } from '../native/transfer.js';
import { kvTypes } from '../ops/flash-attention.js';
import type { SequenceState } from '../state/sequence-state.js';
import { turn } from '../turn.js';
import type { GenerationHost } from './generation.js';

/*
 * A saved sequence, little-endian:
 *
 *   bytes  what
 *   4, 4   magic "CCSQ", version of this format
 *   8      bytes in all
 *   4      CRC-32 of everything after it
 *   2, 2   activations: 0 fast, 1 exact; type of the cache: 0 f32, 1 f16, 2 bf16, 3 int8
 *   8      fingerprint of the model
 *   4 x 4  tokens, committed tokens, accepted nodes, bounds of the ranges of tokens that the model chose
 *   4 x …  accepted nodes, those bounds, token ids
 *   …      native state (native/cpu/session.cpp), where a token has been run
 */
const magic = 0x51534343;
const version = 3;
const at = { magic: 0, version: 4, bytes: 8, checksum: 16, activations: 20, kv: 22, model: 24, counts: 32 };
const countWords = 4;
const headBytes = at.counts + 4 * countWords;

/** A saved sequence, checked in itself and against the model. */
export interface SavedSequence {
  readonly ids: Int32Array;
  readonly length: number;
  readonly accepted: readonly number[];
  /** Of `DecodedTokens`. */
  readonly decoded: readonly number[];
  readonly native: Uint8Array;
}

export async function saveState(host: GenerationHost, state: SequenceState): Promise<Uint8Array> {
  if (state.lost) throw new CrosscurrentError('INVALID_STATE', 'sequence: its state was lost in a failed step');
  const { ids, length, accepted, decoded, processed } = state;
  const counts = [ids.length, length, accepted.length, decoded.bounds.length];
  const words = Int32Array.from([...counts, ...accepted, ...decoded.bounds, ...ids]);
  const room = at.counts + words.byteLength;
  const bytes = processed > 0 ? await host.scheduler.save(state, room) : new Uint8Array(room);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(at.magic, magic, true);
  view.setUint32(at.version, version, true);
  view.setBigUint64(at.bytes, BigInt(bytes.length), true);
  view.setUint16(at.activations, activationsOf(host), true);
  view.setUint16(at.kv, kvTypes.indexOf(host.kv), true);
  view.setBigUint64(at.model, BigInt(`0x${host.fingerprint}`), true);
  bytes.set(new Uint8Array(words.buffer), at.counts);
  view.setUint32(at.checksum, await checksum(bytes.subarray(at.activations)), true);
  return bytes;
}

/** @throws CrosscurrentError INVALID_ARGUMENT, INVALID_STATE when the bytes are damaged or of another model, saying what differs. */
export async function readSaved(host: GenerationHost, bytes: Uint8Array): Promise<SavedSequence> {
  if (!(bytes instanceof Uint8Array)) throw mismatch('INVALID_ARGUMENT', 'bytes', 'a Uint8Array', typeof bytes);
  const view = await checkWhole(bytes);
  const model = view.getBigUint64(at.model, true).toString(16).padStart(16, '0');
  if (model !== host.fingerprint) throw wrong('model', `${host.fingerprint} (its fingerprint)`, model);
  const exact = view.getUint16(at.activations, true);
  if (exact !== activationsOf(host)) throw wrong('activations', host.activations, exact === 1 ? 'exact' : 'fast');
  const kv = view.getUint16(at.kv, true);
  if (kv !== kvTypes.indexOf(host.kv)) throw wrong('kv', host.kv, kvTypes[kv] ?? kv);

  const word = (index: number): number => view.getInt32(at.counts + 4 * index, true);
  const [tokens, length, accepted, bounds] = [word(0), word(1), word(2), word(3)];
  const { context } = host.scheduler.limits;
  if (tokens < 0 || tokens > context) throw wrong('tokens', `0..${context} (the context)`, tokens);
  if (length < 0 || accepted < 0 || length + accepted > tokens)
    throw wrong('processed tokens', `at most ${tokens}`, length + accepted);
  if (bounds < 0 || bounds > 2 * tokens || bounds % 2 !== 0)
    throw wrong('bounds of chosen tokens', `an even number up to ${2 * tokens}`, bounds);
  const nativeAt = headBytes + 4 * (accepted + bounds + tokens);
  if (bytes.length < nativeAt) throw wrong('size', `at least ${nativeAt} bytes`, bytes.length);
  const list = (first: number, count: number): number[] =>
    Array.from({ length: count }, (_, i) => word(countWords + first + i));
  const nodes = list(0, accepted);
  if (!rises(nodes)) throw wrong('accepted nodes', 'rising numbers', nodes);
  const decoded = list(accepted, bounds);
  if (!rises(decoded) || (decoded.at(-1) ?? 0) > tokens)
    throw wrong('bounds of chosen tokens', `rising numbers up to ${tokens}`, decoded);
  const ids = Int32Array.from(list(accepted + bounds, tokens));
  const stray = ids.find((id) => id < 0 || id >= host.vocab);
  if (stray !== undefined) throw wrong('token', `0..${host.vocab - 1}`, stray);
  const native = bytes.subarray(nativeAt);
  if (length + accepted === 0 && native.length > 0) throw wrong('size', `${nativeAt} bytes`, bytes.length);
  if (accepted > 0) {
    const pending = native.length >= pendingAt + 4 ? view.getInt32(nativeAt + pendingAt, true) : 0;
    const last = nodes.at(-1) as number;
    if (last >= pending) throw wrong('accepted nodes', `below ${pending}`, last);
  }
  return { ids, length, accepted: nodes, decoded, native };
}

/** In the native state: nodes that wait to be accepted. */
const pendingAt = 12;

/** Fills an empty sequence. */
export async function restoreState(host: GenerationHost, state: SequenceState, saved: SavedSequence): Promise<void> {
  const processed = saved.length + saved.accepted.length;
  // rejected nodes before the last accepted one still take room
  const span = saved.length + (saved.accepted.at(-1) ?? -1) + 1;
  if (processed > 0) await host.scheduler.restore(state, saved.native, span);
  for (const id of saved.ids) state.ids.push(id);
  state.length = saved.length;
  state.accepted = saved.accepted;
  state.decoded.bounds = saved.decoded;
}

const rises = (numbers: readonly number[]): boolean => numbers.every((number, i) => number > (numbers[i - 1] ?? -1));

const wrong = (operand: string, expected: string, got: unknown): CrosscurrentError =>
  mismatch('INVALID_STATE', `saved sequence: ${operand}`, expected, got);

const activationsOf = ({ activations }: GenerationHost): number => (activations === 'exact' ? 1 : 0);

/** What can be said without a model: that these are the bytes of a saved sequence, all of them, unaltered. */
async function checkWhole(bytes: Uint8Array): Promise<DataView> {
  if (bytes.length < headBytes) throw wrong('size', `at least ${headBytes} bytes`, bytes.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const hex = (offset: number): string => `0x${view.getUint32(offset, true).toString(16)}`;
  if (view.getUint32(at.magic, true) !== magic) throw wrong('magic', `0x${magic.toString(16)}`, hex(at.magic));
  if (view.getUint32(at.version, true) !== version)
    throw wrong('version', String(version), view.getUint32(at.version, true));
  const [size, expected] = [view.getBigUint64(at.bytes, true), hex(at.checksum)];
  const sum = `0x${(await checksum(bytes.subarray(at.activations))).toString(16)}`;
  // after the wait: an array that was transferred meanwhile has no bytes any more
  if (size !== BigInt(bytes.length)) throw wrong('size', `${size} bytes`, bytes.length);
  if (sum !== expected) throw wrong('checksum', expected, sum);
  return view;
}

/** CRC-32, a piece in a turn of the event loop. */
async function checksum(bytes: Uint8Array): Promise<number> {
  let sum = 0;
  for (let start = 0; start < bytes.length; start += pieceBytes) {
    sum = crc32(bytes.subarray(start, start + pieceBytes), sum);
    if (start + pieceBytes < bytes.length) await turn();
  }
  return sum;
}
