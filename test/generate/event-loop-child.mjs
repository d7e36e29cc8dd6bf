// How long the event loop is held through load, a 2,000-token prompt and generation, in a process of its own:
// node event-loop-child.mjs <folder of the library> <model>. Prints JSON: phase → milliseconds. Plain JavaScript, so that no loader is measured.
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

const { load } = await import(`${process.argv[2]}/index.js`);
const resolution = 1;
const schedstat = `/proc/self/task/${process.pid}/schedstat`;

/** Milliseconds that this thread has run: unlike a clock's, they do not grow while others have the processor. */
function threadTime() {
  try {
    return Number(readFileSync(schedstat, 'latin1').split(' ')[0]) / 1e6;
  } catch {
    return Number.NaN; // not Linux
  }
}

/** The longest gap by the clock, and the most processor time between two ticks a millisecond apart. */
async function longest(work) {
  const delay = monitorEventLoopDelay({ resolution });
  let busy = 0;
  let last = threadTime();
  const timer = setInterval(() => {
    const now = threadTime();
    busy = Math.max(busy, now - last);
    last = now;
  }, 1);
  delay.enable();
  const result = await work();
  delay.disable();
  clearInterval(timer);
  return { gap: delay.max / 1e6 - resolution, busy, result };
}

await longest(() => new Promise((resolve) => setTimeout(resolve, 200))); // the measurement itself is warm
const loading = await longest(() => load(process.argv[3], { sequences: 2 }));
const model = loading.result;
const text = 'The quick brown fox jumps over the lazy dog. '.repeat(200);
const prompt = await longest(() => model.complete(text, { raw: true, maxTokens: 1 }));
const generation = await longest(() =>
  model.complete('Once upon a time', { raw: true, maxTokens: 64, ignoreEos: true }),
);
const ms = ({ gap, busy }) => ({ gap: +gap.toFixed(2), busy: +busy.toFixed(2) });
process.stdout.write(
  JSON.stringify({
    promptTokens: prompt.result.stats.promptTokens,
    load: ms(loading),
    prompt: ms(prompt),
    generate: ms(generation),
  }),
);
await model.dispose();
