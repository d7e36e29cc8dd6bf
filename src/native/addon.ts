import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { CrosscurrentError } from '../errors.js';
import { turn } from '../turn.js';
import type { NativeAddon } from './types.js';

/** The package root: two folders up from src/native as from dist/native. */
const root = fileURLToPath(new URL('../../', import.meta.url));

const require = createRequire(import.meta.url);

/** Loads the binary of a package, or only says where it is. */
const nodeGypBuild = require('node-gyp-build') as ((root: string) => NativeAddon) & { path(root: string): string };

let loaded: NativeAddon | undefined;

/**
 * The native addon, opened at the first call: importing the package cannot fail for want of one.
 *
 * @throws CrosscurrentError `NATIVE_NOT_FOUND` when this machine has no binary that fits.
 */
export function addon(): NativeAddon {
  try {
    return loaded ?? adopt(nodeGypBuild(root));
  } catch (cause) {
    throw notFound(cause);
  }
}

/** Loads the addon as `addon` does, a part in a turn of the event loop: together they hold it for several milliseconds. */
export async function openAddon(): Promise<void> {
  if (loaded) return;
  try {
    await turn();
    const file = nodeGypBuild.path(root);
    await turn();
    if (!loaded) adopt(require(file) as NativeAddon);
    await turn();
  } catch (cause) {
    throw notFound(cause);
  }
}

function adopt(native: NativeAddon): NativeAddon {
  native.setErrorClass(CrosscurrentError);
  loaded = native;
  return native;
}

function notFound(cause: unknown): CrosscurrentError {
  return new CrosscurrentError(
    'NATIVE_NOT_FOUND',
    `no native addon for ${process.platform}-${process.arch} loads from ${root}; build it with "npx crosscurrent-build" (needs CMake and a C++20 compiler)`,
    { operand: 'addon', cause },
  );
}
