import { mismatch } from '../errors.js';
import { turn } from '../turn.js';
import { addon } from './addon.js';
import type { BlockHandle, ResultHandle } from './types.js';

/** Copying this much takes well under a millisecond. */
export const pieceBytes = 1 << 20;

type ArrayClass<T> = new (buffer: ArrayBuffer) => T;

/** A result as a typed array, copied in pieces where it is large. */
export async function received<T extends ArrayBufferView>(given: T | ResultHandle, type: ArrayClass<T>): Promise<T> {
  if (ArrayBuffer.isView(given)) return given;
  return new type((await receivedAfter(0, given)).buffer);
}

/** Bytes of a result after `room` zeros. */
export async function receivedAfter(room: number, given: Uint8Array | ResultHandle): Promise<Uint8Array<ArrayBuffer>> {
  if (ArrayBuffer.isView(given)) {
    const bytes = new Uint8Array(room + given.length);
    bytes.set(given, room);
    return bytes;
  }
  const native = addon();
  try {
    const bytes = new Uint8Array(room + native.resultBytes(given));
    for (let start = room; start < bytes.length; start += pieceBytes) {
      native.copyResult(given, bytes.subarray(start, start + pieceBytes), start - room);
      await turn();
    }
    return bytes;
  } finally {
    native.close(given);
  }
}

/** Bytes as a call takes them: themselves where they are few, a block filled in pieces where they are many. */
export async function sendable(bytes: Uint8Array): Promise<Uint8Array | BlockHandle> {
  if (!(bytes instanceof Uint8Array) || bytes.length <= pieceBytes) return bytes;
  const native = addon();
  const size = bytes.length;
  const block = await native.newBlock(size);
  for (let start = 0; start < size; start += pieceBytes) {
    if (bytes.length !== size)
      throw mismatch('INVALID_ARGUMENT', 'bytes', 'an array that stays until it is read', 'one transferred meanwhile');
    native.fillBlock(block, bytes.subarray(start, start + pieceBytes), start);
    await turn();
  }
  return block;
}
