import { addon } from './addon.js';
import type { ProgramHandle } from './types.js';

/** A program that native code has checked. */
export class NativeProgram {
  readonly handle: ProgramHandle;

  constructor(handle: ProgramHandle) {
    this.handle = handle;
  }

  close(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** @throws CrosscurrentError INVALID_PROGRAM, naming the word or the op and what is wrong with it. */
export function parseProgram(words: Int32Array): NativeProgram {
  return new NativeProgram(addon().parseProgram(words));
}
