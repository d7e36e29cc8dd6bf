/**
 * Minutes of many requests at once on the model that ships: random lengths, prompts, priorities, drafters and aborts. Nothing may grow, and every answer must be the
 * one that its request gives alone.
 *
 * `npm run bench -- soak [--minutes 5] [--concurrency 32] [--sequences 16] [--seed 1] [--threads 2]`
 */
import { parseArgs } from 'node:util';
import { load } from '../src/index.js';
import { describeMachine, modelFiles, printMachine, root, saveResult } from './lib/machine.js';
import { soak } from './lib/soak.js';

const context = 1024;

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: 'string', default: '5' },
      concurrency: { type: 'string', default: '32' },
      sequences: { type: 'string', default: '16' },
      seed: { type: 'string', default: '1' },
      threads: { type: 'string', default: '2' },
    },
  });
  const [minutes, concurrency, sequences, seed, threads] = [
    values.minutes,
    values.concurrency,
    values.sequences,
    values.seed,
    values.threads,
  ].map(Number) as [number, number, number, number, number];
  const facts = await describeMachine(`npm run bench -- soak ${args.join(' ')}`.trim());
  printMachine(facts);
  const path = `${root}${modelFiles.tiny}`;
  // fewer places and less cache than the requests want at once
  await using model = await load(path, { context, sequences, cacheTokens: 4 * context, threads });
  await using draft = await load(path, { context, sequences, threads });
  const report = await soak(model, {
    seconds: 60 * minutes,
    concurrency,
    seed,
    draft,
    onProgress: ({ second, finished, rssMB }) => {
      if (second % 15 === 0) console.log(`  ${second} s: ${finished} finished, RSS ${rssMB.toFixed(0)} MB`);
    },
  });
  const { interTokenMs: token, firstTokenMs: first } = report;
  const rate = report.tokens / (60 * minutes);
  console.log(
    `\n${report.finished} answers, ${report.aborted} aborted, ${report.tokens} tokens (${rate.toFixed(0)} a second)`,
  );
  console.log(`  drafts: ${report.accepted} of ${report.drafted} right`);
  const { preemptions, prefixCache } = report.scheduler;
  console.log(`  preemptions: ${preemptions}; prompts whose beginning was known: ${prefixCache?.hits ?? 0}`);
  console.log(`  wrong: ${report.wrong.length}, errors: ${report.errors.length}`);
  for (const line of [...report.wrong, ...report.errors]) console.log(`    ${line}`);
  console.log(
    `  between tokens, ms: p50 ${token.p50.toFixed(1)}, p99 ${token.p99.toFixed(1)}, max ${token.max.toFixed(0)}`,
  );
  console.log(
    `  to the first token, ms: p50 ${first.p50.toFixed(0)}, p99 ${first.p99.toFixed(0)}, max ${first.max.toFixed(0)}`,
  );
  console.log(`  longest gap of the event loop ${report.gapMs.toFixed(1)} ms, p99 ${report.gapP99Ms.toFixed(1)}`);
  console.log(
    `  RSS, MB, after warm-up: ${report.rssMB.map((mb) => mb.toFixed(0)).join(' ')} (±${report.rssSpreadPercent.toFixed(1)} %)`,
  );
  console.log(`\n${saveResult('soak', facts, { minutes, concurrency, sequences, seed, threads, report })}`);
  if (report.wrong.length + report.errors.length > 0) process.exitCode = 1;
}
