// `npm run check`: all that can be said of the sources without running them. Every step runs, whatever failed before.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const { version } = require('../package.json');
const scratch = mkdtempSync(join(tmpdir(), 'crosscurrent-check-'));
const tarball = join(scratch, `crosscurrent-${version}.tgz`);

/** Name, then commands that are run in order until one fails. A step without a command says why it is skipped. */
const steps = [
  ['types', 'tsc -p tsconfig.json'],
  ['lint and format', 'biome check --error-on-warnings'],
  ['C++ format', 'node scripts/clang-format.mjs'],
  existsSync(join(root, 'scripts/gen.ts'))
    ? ['generated files', 'tsx scripts/gen.ts --check']
    : ['generated files', undefined, 'scripts/gen.ts is not there'],
  [
    'package',
    'tsc -p tsconfig.build.json',
    `npm pack --ignore-scripts --silent --pack-destination ${scratch}`,
    `publint run ${tarball} --strict`,
    `attw ${tarball} --profile esm-only`,
  ],
];

const env = { ...process.env, PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}` };
const failed = [];
for (const [name, ...commands] of steps) {
  if (commands[0] === undefined) {
    console.log(`skip  ${name}: ${commands[1]}`);
    continue;
  }
  const start = Date.now();
  const broken = commands.find(
    (command) => spawnSync(command, { cwd: root, env, shell: true, stdio: 'inherit' }).status,
  );
  const seconds = ((Date.now() - start) / 1000).toFixed(1);
  console.log(broken ? `FAIL  ${name}: ${broken}` : `ok    ${name} (${seconds}s)`);
  if (broken) failed.push(name);
}
rmSync(scratch, { recursive: true });
console.log(`${steps.length - failed.length} passed, ${failed.length} failed`);
process.exitCode = failed.length === 0 ? 0 : 1;
