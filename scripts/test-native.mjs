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
run('cmake', ['--build', build, '--parallel', String(availableParallelism())]);

const { status, stdout } = spawnSync('ctest', ['--test-dir', build, '--verbose', '--no-tests=error'], {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'inherit'],
});
console.log(stdout);
// A program with a main() of its own, without the harness's summary, counts as one test.
const programs = /(\d+) tests failed out of (\d+)/.exec(stdout) ?? ['', '1', '1'];
const summaries = [...stdout.matchAll(/^\d+: (\d+) passed, (\d+) failed$/gm)];
const sum = (group) => summaries.reduce((total, match) => total + Number(match[group]), 0);
const crashed = Math.max(0, Number(programs[1]) - summaries.filter((match) => match[2] !== '0').length);
const silent = Math.max(0, Number(programs[2]) - summaries.length - crashed);
console.log(`${sum(1) + silent} passed, ${sum(2) + crashed} failed`);
process.exitCode = status ?? 1;
