// `npm run test:native [-- thread]`: the programs of test/native under AddressSanitizer and
// UndefinedBehaviorSanitizer, or under ThreadSanitizer. Warnings are errors here, the addon's included.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const sanitizers = process.argv[2] ?? 'address,undefined';
const build = join(root, `build-${sanitizers.replace(',', '-')}`);
const jobs = String(availableParallelism());

function run(command, args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

const generator = existsSync(join(build, 'CMakeCache.txt')) ? [] : ['-G', 'Ninja'];
const options = ['CROSSCURRENT_TESTS=ON', 'CROSSCURRENT_STRICT=ON', `CROSSCURRENT_SANITIZE=${sanitizers}`];
run('cmake', [
  ...['-S', root, '-B', build, ...generator, '-DCMAKE_BUILD_TYPE=RelWithDebInfo'],
  ...options.map((option) => `-D${option}`),
]);
run('cmake', ['--build', build, '--parallel', jobs]);
run('ctest', ['--test-dir', build, '--output-on-failure', '--no-tests=error']);
