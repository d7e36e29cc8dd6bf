import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { mismatch } from '../errors.js';

export type MetadataValue = number | bigint | boolean | string | MetadataValue[];

const elementBytes: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const stringType = 8;
const arrayType = 9;
const windowBytes = 1 << 18;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A forward reader over a file that holds one window of it, never the whole. */
class FileReader {
  private window = Buffer.alloc(0);
  private windowAt = 0;
  private position = 0;

  constructor(
    private readonly fd: number,
    private readonly path: string,
    readonly fileBytes: number,
  ) {}

  fail(expected: string, got: unknown): never {
    throw mismatch('INVALID_FILE', this.path, `${expected} at byte ${this.position}`, got);
  }

  take(bytes: number, what: string): Buffer {
    const start = this.advance(bytes, what);
    return this.window.subarray(start, start + bytes);
  }

  /** Moves on, and gives where in the window the bytes passed begin: a view each is garbage, a hundred thousand times over. */
  private advance(bytes: number, what: string): number {
    if (bytes > this.fileBytes - this.position) {
      this.fail(`${bytes} bytes of ${what}`, `${this.fileBytes - this.position} before the end of the file`);
    }
    let start = this.position - this.windowAt;
    if (start < 0 || start + bytes > this.window.length) {
      const window = Buffer.alloc(Math.min(Math.max(bytes, windowBytes), this.fileBytes - this.position));
      const got = readSync(this.fd, window, 0, window.length, this.position);
      if (got < bytes) this.fail(`${bytes} bytes of ${what}`, `${got} read: the file is shorter than it was`);
      this.window = window.subarray(0, got);
      this.windowAt = this.position;
      start = 0;
    }
    this.position += bytes;
    return start;
  }

  skip(bytes: number, what: string): void {
    if (bytes > this.fileBytes - this.position) this.take(bytes, what);
    this.position += bytes;
  }

  u32(what: string): number {
    const at = this.advance(4, what);
    return this.window.readUInt32LE(at);
  }

  /** A u64 that counts bytes or elements of this file, so anything above the file's size is corrupt. */
  count(what: string, kind = ''): number {
    const at = this.advance(8, what);
    const low = this.window.readUInt32LE(at);
    const high = this.window.readUInt32LE(at + 4);
    if (high === 0 && low <= this.fileBytes) return low;
    const value = high * 2 ** 32 + low;
    if (value > this.fileBytes) {
      this.fail(`${kind}${what} within a file of ${this.fileBytes} bytes`, String(this.window.readBigUInt64LE(at)));
    }
    return value;
  }

  string(what: string): string {
    const bytes = this.count(what, 'length of ');
    const start = this.advance(bytes, what);
    const text = this.window.toString('utf8', start, start + bytes);
    // Bytes that are not UTF-8 became U+FFFD, and so does U+FFFD itself
    if (text.includes('\ufffd')) {
      try {
        utf8.decode(this.window.subarray(start, start + bytes));
      } catch {
        return this.fail(`${what} in UTF-8`, 'other bytes');
      }
    }
    return text;
  }
}

function scalar(bytes: Buffer, at: number, type: number): MetadataValue {
  switch (type) {
    case 0:
      return bytes.readUInt8(at);
    case 1:
      return bytes.readInt8(at);
    case 2:
      return bytes.readUInt16LE(at);
    case 3:
      return bytes.readInt16LE(at);
    case 4:
      return bytes.readUInt32LE(at);
    case 5:
      return bytes.readInt32LE(at);
    case 6:
      return bytes.readFloatLE(at);
    case 7:
      return bytes[at] !== 0;
    case 10:
      return bytes.readBigUInt64LE(at);
    case 11:
      return bytes.readBigInt64LE(at);
    default:
      return bytes.readDoubleLE(at);
  }
}

function value(reader: FileReader, type: number, key: string, keep: boolean): MetadataValue | undefined {
  if (type === stringType) {
    if (keep) return reader.string(key);
    reader.skip(reader.count(key, 'length of '), key);
    return undefined;
  }
  if (type !== arrayType) {
    if (elementBytes[type] === undefined) reader.fail(`a type of metadata (0-12) for ${key}`, type);
    return scalar(reader.take(elementBytes[type], key), 0, type);
  }
  const itemType = reader.u32(`item type of ${key}`);
  const items = reader.count(`items of ${key}`);
  if (itemType === arrayType) reader.fail(`numbers or strings in ${key}`, 'arrays in an array');
  const bytes = elementBytes[itemType];
  const values: MetadataValue[] = [];
  if (bytes !== undefined) {
    if (!keep) {
      reader.skip(items * bytes, key);
      return undefined;
    }
    const data = reader.take(items * bytes, key);
    for (let i = 0; i < items; i++) values.push(scalar(data, i * bytes, itemType));
    return values;
  }
  for (let i = 0; i < items; i++) {
    const item = value(reader, itemType, key, keep);
    if (item !== undefined) values.push(item);
  }
  return values;
}

/** The metadata of a GGUF file whose keys begin with `prefix`; the rest is walked over, and tensors are never read. */
export function readGgufMetadata(path: string, prefix: string): Map<string, MetadataValue> {
  const fd = openSync(path, 'r');
  try {
    const reader = new FileReader(fd, path, fstatSync(fd).size);
    const magic = reader.take(4, 'the magic').toString('latin1');
    if (magic !== 'GGUF') reader.fail('the magic GGUF', JSON.stringify(magic));
    const version = reader.u32('the version');
    if (version !== 2 && version !== 3) throw mismatch('UNSUPPORTED_FORMAT', path, 'GGUF version 2 or 3', version);
    reader.count('tensors');
    const pairs = reader.count('metadata pairs');
    const metadata = new Map<string, MetadataValue>();
    for (let i = 0; i < pairs; i++) {
      const key = reader.string('a metadata key');
      const found = value(reader, reader.u32(`type of ${key}`), key, key.startsWith(prefix));
      if (!key.startsWith(prefix)) continue;
      if (metadata.has(key)) reader.fail('each key once', `${key} twice`);
      metadata.set(key, found!);
    }
    return metadata;
  } finally {
    closeSync(fd);
  }
}
