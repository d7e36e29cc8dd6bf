// No call holds the event loop for long: load, a prompt of 2,000 tokens, generation; each model in a process of its own.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { missing, smollm2Gguf, tinyGguf } from '../support/models.js';
import { transpileSources } from '../support/transpile.js';

/**
 * Processor milliseconds of the main thread between two ticks. The promise is 5 of one turn; two turns can come between two ticks, and a
 * shared machine runs a thread at half its speed, hence the retries. Gaps by the clock are printed, not asserted: there they say how long others ran.
 */
const bound = 10;

let sources: ReturnType<typeof transpileSources>;
beforeAll(() => {
  sources = transpileSources('event-loop');
});
afterAll(() => sources.remove());

const script = fileURLToPath(new URL('./event-loop-child.mjs', import.meta.url));

for (const [name, path] of [
  ['the model that ships', tinyGguf],
  ['SmolLM2', smollm2Gguf],
] as const) {
  const reason = missing(path);
  it.skipIf(reason)(reason ? `${name} needs its file: ${reason}` : name, { timeout: 180_000, retry: 2 }, () => {
    const { stdout, status } = spawnSync(process.execPath, [script, sources.folder, path], { encoding: 'utf8' });
    expect(status).toBe(0);
    const { promptTokens, ...phases } = JSON.parse(stdout);
    console.log(`event loop, ${name}: ${stdout}`);
    expect(promptTokens).toBeGreaterThan(1990);
    for (const [phase, { busy }] of Object.entries<{ busy: number | null }>(phases))
      expect(busy ?? 0, phase).toBeLessThan(bound);
  });
}
