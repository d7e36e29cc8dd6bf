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
    return this.window.subarray(start, start + bytes);
  }

  skip(bytes: number, what: string): void {
    if (bytes > this.fileBytes - this.position) this.take(bytes, what);
    this.position += bytes;
  }

  u32(what: string): number {
    return this.take(4, what).readUInt32LE();
  }

  /** A u64 that counts bytes or elements of this file, so anything above the file's size is corrupt. */
  count(what: string): number {
    const value = this.take(8, what).readBigUInt64LE();
    if (value > BigInt(this.fileBytes)) this.fail(`${what} within a file of ${this.fileBytes} bytes`, String(value));
    return Number(value);
  }

  string(what: string): string {
    const bytes = this.take(this.count(`length of ${what}`), what);
    try {
      return utf8.decode(bytes);
    } catch {
      return this.fail(`${what} in UTF-8`, 'other bytes');
    }
  }
}

function scalar(reader: FileReader, type: number, key: string): MetadataValue {
  const bytes = reader.take(elementBytes[type]!, key);
  switch (type) {
    case 0:
      return bytes.readUInt8();
    case 1:
      return bytes.readInt8();
    case 2:
      return bytes.readUInt16LE();
    case 3:
      return bytes.readInt16LE();
    case 4:
      return bytes.readUInt32LE();
    case 5:
      return bytes.readInt32LE();
    case 6:
      return bytes.readFloatLE();
    case 7:
      return bytes[0] !== 0;
    case 10:
      return bytes.readBigUInt64LE();
    case 11:
      return bytes.readBigInt64LE();
    default:
      return bytes.readDoubleLE();
  }
}

function value(reader: FileReader, type: number, key: string, keep: boolean): MetadataValue | undefined {
  if (type === stringType) {
    if (keep) return reader.string(key);
    reader.skip(reader.count(`length of ${key}`), key);
    return undefined;
  }
  if (type !== arrayType) {
    if (elementBytes[type] === undefined) reader.fail(`a type of metadata (0-12) for ${key}`, type);
    return scalar(reader, type, key);
  }
  const itemType = reader.u32(`item type of ${key}`);
  const items = reader.count(`items of ${key}`);
  if (itemType === arrayType) reader.fail(`numbers or strings in ${key}`, 'arrays in an array');
  const bytes = elementBytes[itemType];
  if (!keep && bytes !== undefined) {
    reader.skip(items * bytes, key);
    return undefined;
  }
  const values: MetadataValue[] = [];
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
