// `npm run build:cuda [-- ARCHITECTURES]`: compiles the CUDA kernels and drivers, no GPU needed, and fails when a hot
// kernel spills registers. ARCHITECTURES as CMake takes them; by default sm_80 and sm_90a.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkSpills } from './check-spills.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const build = join(root, 'build-cuda');
const log = join(build, 'build.log');
mkdirSync(build, { recursive: true });

const generator = existsSync(join(build, 'CMakeCache.txt')) ? [] : ['-G', 'Ninja'];
const architectures = process.argv[2] ? [`-DCROSSCURRENT_CUDA_ARCHITECTURES=${process.argv[2]}`] : [];
const configured = spawnSync(
  'cmake',
  ['-S', root, '-B', build, ...generator, '-DCROSSCURRENT_CUDA=ON', '-DCROSSCURRENT_ADDON=OFF', ...architectures],
  { stdio: 'inherit' },
);
if (configured.status !== 0) process.exit(configured.status ?? 1);

// The log holds ptxas's word on every kernel: long, and of interest only when something is wrong. Appended: objects
// that are up to date are not compiled again, and their lines stay.
const file = openSync(log, 'a');
const built = spawnSync('cmake', ['--build', build, '--target', 'cuda', '--parallel', String(availableParallelism())], {
  stdio: ['ignore', file, file],
});
if (built.status !== 0) {
  console.log(
    readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => !line.startsWith('ptxas info'))
      .slice(-60)
      .join('\n'),
  );
  process.exit(built.status ?? 1);
}
process.exitCode = checkSpills(readFileSync(log, 'utf8')) ? 0 : 1;
