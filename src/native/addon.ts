import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { CrosscurrentError } from '../errors.js';
import type { NativeAddon } from './types.js';

/** The package root: two folders up from src/native as from dist/native. */
const root = fileURLToPath(new URL('../../', import.meta.url));

let loaded: NativeAddon | undefined;

/**
 * The native addon, loaded at the first call: importing the package costs nothing and cannot fail.
 *
 * @throws CrosscurrentError `NATIVE_NOT_FOUND` when this machine has no binary that fits.
 */
export function addon(): NativeAddon {
  if (!loaded) {
    loaded = find();
    loaded.setErrorClass(CrosscurrentError);
  }
  return loaded;
}

function find(): NativeAddon {
  const require = createRequire(import.meta.url);
  try {
    return (require('node-gyp-build') as (root: string) => NativeAddon)(root);
  } catch (cause) {
    throw new CrosscurrentError(
      'NATIVE_NOT_FOUND',
      `no native addon for ${process.platform}-${process.arch} loads from ${root}; build it with "npx crosscurrent-build" (needs CMake and a C++20 compiler)`,
      { operand: 'addon', cause },
    );
  }
}
