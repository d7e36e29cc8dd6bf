// `npm run test:levels`: kernels at the instruction-set levels that this machine does not have or would not choose, under qemu-user: x86-64
// as Nehalem (v2) and Haswell (avx2), arm64 by the cross compiler. AVX-VNNI and AVX-512 have no emulator: they run natively, where they are, in every
// native test.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Programs of test/native and which of their tests; emulation takes ten times as long. */
const programs = {
  matmul_test: ['integer products', 'levels', 'NaN'],
  ops_rows: [],
  ops_flash_attention: ['f64 reference'],
  state_ops_scan: [],
  state_ops_ssd: [],
  moe_test: [],
};

const targets = [
  {
    name: 'x86-64',
    build: 'build-levels',
    options: [],
    emulators: [
      ['qemu-x86_64', '-cpu', 'Nehalem'],
      ['qemu-x86_64', '-cpu', 'Haswell'],
    ],
  },
  {
    name: 'arm64',
    build: 'build-aarch64',
    options: ['-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux.cmake'],
    emulators: [['qemu-aarch64', '-cpu', 'max', '-L', '/usr/aarch64-linux-gnu']],
  },
];

function run(command, args, options = {}) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', ...options });
}

const output = (command, args) =>
  new Promise((resolve) => {
    execFile(command, args, { cwd: root, maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
      resolve({ stdout, stderr, ok: error === null }),
    );
  });

let [passed, failed] = [0, 0];
for (const { name, build, options, emulators } of targets) {
  const generator = existsSync(join(root, build, 'CMakeCache.txt')) ? [] : ['-G', 'Ninja'];
  const settings = ['-DCMAKE_BUILD_TYPE=Release', '-DCROSSCURRENT_ADDON=OFF', '-DCROSSCURRENT_TESTS=ON'];
  const configured = run('cmake', ['-S', '.', '-B', build, ...generator, ...settings, ...options], {
    stdio: 'inherit',
  });
  const jobs = ['--parallel', String(availableParallelism())];
  const built =
    configured.status === 0 &&
    run('cmake', ['--build', build, ...jobs, '--target', ...Object.keys(programs)], { stdio: 'inherit' }).status === 0;
  if (!built) {
    failed++;
    continue;
  }
  const waiting = emulators.flatMap((emulator) => Object.entries(programs).map((program) => [emulator, ...program]));
  const emulate = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [[emulator, ...args], program, wanted] = next;
      const { stdout, stderr, ok } = await output(emulator, [
        ...args,
        join(root, build, 'test/native', program),
        ...wanted,
      ]);
      const [, p, f] = /^(\d+) passed, (\d+) failed$/m.exec(stdout) ?? ['', '0', '1'];
      console.log(`${name}, ${args[1]}: ${program} ${p} passed, ${f} failed`);
      if (!ok) console.log(stdout, stderr);
      passed += Number(p);
      failed += Number(f) + (!ok && f === '0' ? 1 : 0);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, emulate));
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
