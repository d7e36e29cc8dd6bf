// npm runs this after `npm install` on a clone and before `npm pack`: the native addon, then dist/.
// Both steps are incremental and always run: "the build exists, skip it" would leave stale binaries.
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));

async function prepare() {
  // The published package has no sources: its dist/ is complete and its binary is prebuilt.
  if (!existsSync(`${root}/tsconfig.build.json`)) return 0;

  const { buildNative, say } = require('./build-native.cjs');
  const status = await buildNative();
  if (status !== 0) return status;

  let tsc;
  try {
    tsc = require.resolve('typescript/bin/tsc');
  } catch {
    say('TypeScript is not installed: on a clone, run npm install with its dev dependencies');
    return 1;
  }
  // A module that was renamed must not travel in the tarball under its old name.
  if (process.env.npm_command === 'pack' || process.env.npm_command === 'publish') {
    rmSync(`${root}/dist`, { recursive: true, force: true });
  }
  say('compiling TypeScript');
  const compiled = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' });
  if (compiled.status === 0) say('ready');
  return compiled.status ?? 1;
}

process.exitCode = await prepare();
