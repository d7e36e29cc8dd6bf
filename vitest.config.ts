import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url));

export default defineConfig({
  resolve: {
    // Tests and examples import the package by its name and get the sources, not a stale dist/.
    alias: [
      { find: /^crosscurrent$/, replacement: source('index.ts') },
      { find: /^crosscurrent\/(graph|kernels)$/, replacement: source('$1/index.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    // A process a file: the addon's threads and memory of one file never meet another's.
    pool: 'forks',
    // Each file already fills the cores through the native pool.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
