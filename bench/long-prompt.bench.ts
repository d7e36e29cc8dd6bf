/**
 * Prompts of ten thousand and a hundred thousand tokens: time by length, and resident memory on the way. A model with a state alone should take ten times as long, in the same memory.
 *
 * `npm run bench -- long-prompt FOLDER… [--tokens 100000] [--rounds 3] [--threads 2]`
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { load } from '../src/index.js';
import { collectGarbage } from './lib/garbage.js';
import { describeMachine, printMachine, saveResult } from './lib/machine.js';
import { spread } from './lib/statistics.js';

const parts = 10;

export async function main(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      tokens: { type: 'string', default: '100000' },
      rounds: { type: 'string', default: '3' },
      threads: { type: 'string' },
    },
  });
  const tokens = Number(values.tokens);
  // names, not places: the folders lie where this machine has them
  const command = `npm run bench -- long-prompt ${args.map((arg) => (arg.includes('/') ? basename(arg) : arg)).join(' ')}`;
  const facts = await describeMachine(command);
  printMachine(facts);
  const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
  const results = [];
  for (const path of positionals) {
    await using model = await load(path, { ...threads, context: tokens + 16, cacheTokens: tokens + 1024 });
    const part = Int32Array.from({ length: tokens / parts }, (_, i) => 5 + ((i * 7919) % (model.info.vocab - 10)));
    const [first, all]: [number[], number[]] = [[], []];
    let residentMB: number[] = [];
    let tenthsMs: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      await using sequence = await model.sequence();
      residentMB = [];
      tenthsMs = [];
      for (let i = 0; i < parts; i++) {
        const start = performance.now();
        await sequence.feed(part);
        tenthsMs.push(performance.now() - start);
        collectGarbage();
        residentMB.push(process.memoryUsage.rss() / 1e6);
      }
      first.push(tenthsMs[0]!);
      all.push(tenthsMs.reduce((sum, ms) => sum + ms, 0));
    }
    const ratio = spread(all.map((time, i) => time / first[i]!));
    results.push({
      model: basename(path),
      tokens,
      firstMs: spread(first),
      allMs: spread(all),
      ratio,
      tenthsMs,
      residentMB,
    });
    console.log(
      `${basename(path)}: ${part.length} tokens ${spread(first).median.toFixed(0)} ms, ${tokens} ${spread(all).median.toFixed(0)} ms, ratio ${ratio.median.toFixed(2)}; tenths ${tenthsMs.map((ms) => ms.toFixed(0)).join(' ')} ms; RSS ${residentMB.map((mb) => mb.toFixed(0)).join(' ')} MB`,
    );
  }
  console.log(`\n${saveResult('long-prompt', facts, { ...threads, results })}`);
}
