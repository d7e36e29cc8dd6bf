// node memory.mjs <model> <generations>: prints resident memory as JSON (bench/memory.bench.ts).
import { peakRssMB, promptIds } from '../../dist/cli/bench-serve.js';

const [path, generations] = [process.argv[2], Number(process.argv[3])];
const rssMB = () => process.memoryUsage.rss() / 1e6;

const nodeMB = rssMB();
const { load } = await import('crosscurrent');
const model = await load(path, { threads: 1 });
const loadedMB = rssMB();
await model.complete('Tell me a story.', { maxTokens: 64, ignoreEos: true });
const peakMB = peakRssMB();

const series = [];
const prompt = Int32Array.from(promptIds(16, model.info.vocab));
for (let i = 1; i <= generations; i++) {
  await model.complete(i % 2 ? 'Hello' : prompt, { maxTokens: 4, temperature: i % 3 ? 0 : 0.8, ignoreEos: true });
  if (i % Math.ceil(generations / 10) === 0) series.push(rssMB());
}
const planned = model.info.memory;
await model.dispose();
console.log(JSON.stringify({ nodeMB, loadedMB, peakMB, planned, series }));
