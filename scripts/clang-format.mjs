// Checks our C++ files against .clang-format; with --write, rewrites them.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const folders = ['binding', 'native', 'test/native'];
// The pinned version from npm, by node: its file modes do not survive every install.
const clangFormat = join(
  dirname(createRequire(import.meta.url).resolve('clang-format-node/package.json')),
  'build/cli.js',
);

const files = folders.flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|cpp|cc|cu|cuh|mm)$/.test(name) && !/\.gen\.h$/.test(name))
    .map((name) => join(folder, name)),
);
const how = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '-Werror'];
const { status } = spawnSync(process.execPath, [clangFormat, ...how, ...files], { cwd: root, stdio: 'inherit' });
process.exitCode = status ?? 1;
