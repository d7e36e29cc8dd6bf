import { addon } from './addon.js';
import type { BlockHandle, ResultHandle } from './types.js';

/** Copying this much takes well under a millisecond. */
const pieceBytes = 1 << 20;

/** Lets the event loop run what has waited. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

type ArrayClass<T> = new (buffer: ArrayBuffer) => T;

/** A result as a typed array, copied in pieces where it is large. */
export async function received<T extends ArrayBufferView>(given: T | ResultHandle, type: ArrayClass<T>): Promise<T> {
  if (ArrayBuffer.isView(given)) return given;
  const native = addon();
  try {
    const bytes = new Uint8Array(native.resultBytes(given));
    for (let start = 0; start < bytes.length; start += pieceBytes) {
      native.copyResult(given, bytes.subarray(start, start + pieceBytes), start);
      await turn();
    }
    return new type(bytes.buffer);
  } finally {
    native.close(given);
  }
}

/** Bytes as a call takes them: themselves where they are few, a block filled in pieces where they are many. */
export async function sendable(bytes: Uint8Array): Promise<Uint8Array | BlockHandle> {
  if (!(bytes instanceof Uint8Array) || bytes.length <= pieceBytes) return bytes;
  const native = addon();
  const block = await native.newBlock(bytes.length);
  for (let start = 0; start < bytes.length; start += pieceBytes) {
    native.fillBlock(block, bytes.subarray(start, start + pieceBytes), start);
    await turn();
  }
  return block;
}
