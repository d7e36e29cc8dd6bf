// How long the event loop is held: node event-loop.mjs <model>. Prints JSON: phase → longest gap in milliseconds, and what an idle loop of the
// same length shows on this machine.
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as wait } from 'node:timers/promises';
import { load } from 'crosscurrent';

const resolution = 1;

async function longest(work) {
  const delay = monitorEventLoopDelay({ resolution });
  delay.enable();
  const result = await work();
  delay.disable();
  return { gap: delay.max / 1e6 - resolution, result };
}

await longest(() => wait(200)); // the measurement itself is warm
const idle = await longest(() => wait(2000));
const loading = await longest(() => load(process.argv[2], { sequences: 2 }));
const model = loading.result;
const text = 'The quick brown fox jumps over the lazy dog. '.repeat(200);
const prompt = await longest(() => model.complete(text, { raw: true, maxTokens: 1 }));
const generate = await longest(() => model.complete('Once upon a time', { raw: true, maxTokens: 64, ignoreEos: true }));
process.stdout.write(JSON.stringify({ idle: idle.gap, load: loading.gap, prompt: prompt.gap, generate: generate.gap }));
await model.dispose();
