// Packs the package as for a release and installs it as a user without a compiler would:
//   npm run prebuildify && npm pack, then in an empty project, with node, npm and sh as the whole PATH,
//   npm install --ignore-scripts crosscurrent.tgz crosscurrent-tiny.tgz
// With --build-from-source it also removes the prebuilt binary and runs `npx crosscurrent-build` (minutes).
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { binaryChecks } from './binary.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'crosscurrent-pack-'));
const project = join(scratch, 'project');
const maxUnpackedBytes = 15e6;
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

let passed = 0;
const failures = [];
function check(name, body) {
  try {
    const note = body();
    passed++;
    console.log(`ok    ${name}${note ? ` (${note})` : ''}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL  ${name}\n${[error.message, error.stdout, error.stderr].filter(Boolean).join('\n')}`);
  }
}
function expect(condition, message) {
  if (!condition) throw new Error(message);
}

const npmCli =
  process.env.npm_execpath ??
  execFileSync('npm', ['root', '-g'], { encoding: 'utf8' }).trim().concat('/npm/bin/npm-cli.js');
const run = (command, args, options = {}) =>
  execFileSync(command, args, { cwd: root, encoding: 'utf8', stdio: 'pipe', ...options });
const npm = (args, options) => run(process.execPath, [npmCli, ...args], options);

/** Packs a folder; the tarball's file list, size and path. */
function pack(folder) {
  const [report] = JSON.parse(
    npm(['pack', folder, '--json', '--silent', '--pack-destination', scratch]).replace(/^[^[]*/, ''),
  );
  return { ...report, path: join(scratch, report.filename) };
}

/** An environment whose PATH holds node, npm and sh alone. */
function bareEnvironment() {
  const bin = join(scratch, 'bin');
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, 'node'));
  symlinkSync(npmCli, join(bin, 'npm'));
  symlinkSync('/bin/sh', join(bin, 'sh'));
  const kept = Object.entries(process.env).filter(([name]) => !/^(npm_|PATH$|NODE_)/i.test(name));
  return { ...Object.fromEntries(kept), PATH: bin };
}

/** What a user may import: `crosscurrent`, `crosscurrent/graph`, … */
const entryPoints = Object.keys(manifest.exports)
  .filter((path) => !path.endsWith('.json'))
  .map((path) => path.replace('.', manifest.name));

console.log(`packing in ${scratch}`);
npm(['run', 'prebuildify']);
const main = pack('.');
const model = pack('./models/tiny');
const files = main.files.map(({ path }) => path);
const bare = bareEnvironment();
const here = { cwd: project, env: bare };

check('unpacked size is under 15 MB', () => {
  expect(main.unpackedSize < maxUnpackedBytes, `${main.unpackedSize} bytes`);
  return `${(main.unpackedSize / 1e6).toFixed(2)} MB, ${files.length} files`;
});
check('the tarball holds one binary and no sources of TypeScript, tests or models', () => {
  expect(
    files.filter((file) => file.endsWith('.node')).length === 1,
    files.filter((file) => file.endsWith('.node')).join(),
  );
  const stray = files.filter(
    (file) => /^(src|test|bench|models|docs|build[^/]*)\//.test(file) || /\.(gguf|tgz)$/.test(file),
  );
  expect(stray.length === 0, stray.join());
});
for (const [name, body] of binaryChecks(
  join(root, files.find((file) => file.endsWith('.node')) ?? ''),
  join(root, 'build-prebuild/build'),
)) {
  check(name, body);
}

mkdirSync(project);
writeFileSync(join(project, 'package.json'), '{ "name": "empty", "private": true }');
check('installs without a compiler and without scripts', () => {
  npm(['install', '--ignore-scripts', '--prefer-offline', '--no-audit', main.path, model.path], here);
});
check('import works and the addon answers', () => {
  writeFileSync(
    join(project, 'main.mjs'),
    `import { devices } from 'crosscurrent';
     const paths = ${JSON.stringify(entryPoints)};
     for (const path of paths) await import(path);
     console.log(paths.length, 'entry points,', (await devices()).map(({ name }) => name).join());`,
  );
  return run(process.execPath, ['main.mjs'], here).trim();
});
check('require works', () => {
  writeFileSync(join(project, 'main.cjs'), `console.log(typeof require('crosscurrent').load)`);
  const output = run(process.execPath, ['main.cjs'], here).trim();
  expect(output === 'function', output);
});
check('the installed command answers with the model beside it', () => {
  const command = join(project, 'node_modules/crosscurrent/dist/cli/main.js');
  const args = ['generate', 'What is the capital of France?', '--temperature', '0', '--max-tokens', '16'];
  const text = run(process.execPath, [command, ...args], here);
  expect(/Paris/.test(text), text);
});
check('without a binary the error says how to build one', () => {
  rmSync(join(project, 'node_modules/crosscurrent/prebuilds'), { recursive: true });
  writeFileSync(
    join(project, 'missing.mjs'),
    `import { devices } from 'crosscurrent';
     const error = await (async () => devices())().catch((e) => e);
     console.log(error.code, /crosscurrent-build/.test(error.message), error.cause !== undefined);`,
  );
  const output = run(process.execPath, ['missing.mjs'], here).trim();
  expect(output === 'NATIVE_NOT_FOUND true true', output);
});
if (process.argv.includes('--build-from-source')) {
  check('crosscurrent-build compiles in the installed package', () => {
    run(process.execPath, ['node_modules/crosscurrent/scripts/build-native.cjs'], { cwd: project });
    return run(process.execPath, ['main.mjs'], here).trim();
  });
}

rmSync(scratch, { recursive: true, force: true });
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length === 0 ? 0 : 1;
