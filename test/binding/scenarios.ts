// One scenario of lifecycle.test.ts, run in a process of its own: node --import tsx scenarios.ts <name>
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { addon } from '../../src/native/addon.js';
import { open, slowModel, slowStep, stepOf, tinyModel } from './support.js';

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function tinyResult(threads = 1): Promise<string> {
  const { session } = await open(await tinyModel(), threads);
  const { logits } = await session.step(stepOf({ ids: [1, 2, 3], rows: [0, 1, 2] }), { logits: true });
  return logits!.join();
}

/** Returns while a slow step runs. */
async function begin(): Promise<{ running: Promise<unknown> }> {
  const { session } = await open(await slowModel());
  const running = session.step(slowStep(), { logits: true });
  await sleep(50);
  return { running };
}

/** tsx does not reach into workers by itself. */
function worker(scenario: string): Worker {
  const start = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(import.meta.url)}); })`;
  return new Worker(start, { eval: true, workerData: scenario });
}

const message = (from: Worker): Promise<unknown> => new Promise((resolve) => from.once('message', resolve));
const exited = (from: Worker): Promise<number> => new Promise((resolve) => from.once('exit', resolve));

const scenarios: Record<string, () => Promise<unknown>> = {
  // Handles stay open, and nothing keeps the process alive.
  async idle() {
    await tinyResult();
    say('idle');
  },
  // Nothing but the pending promise keeps the process alive.
  async pending() {
    const { session } = await open(await slowModel(20));
    session.step(slowStep(), { logits: true }).then(({ logits }) => say(`${logits?.length} logits`));
  },
  // 2.4 GB of handles that nobody closes: the collector knows their size, so it runs in time.
  async 'dropped handles'() {
    let peak = 0;
    for (let i = 0; i < 300; i++) {
      await addon().newBlock(8 << 20);
      await new Promise((resolve) => setImmediate(resolve));
      peak = Math.max(peak, process.memoryUsage.rss());
    }
    say(peak < 1e9 ? 'flat' : `${peak} bytes`);
  },
  async 'exit mid-step'() {
    await begin();
    process.exit(7);
  },
  async 'exit with a queue'() {
    const { session } = await open(await slowModel(20));
    for (let i = 0; i < 100; i++) session.step(slowStep()).catch(() => {});
    process.exit(7);
  },
  async 'exit while loading'() {
    open(await slowModel());
    setImmediate(() => process.exit(7));
  },
  async 'throw mid-step'() {
    await begin();
    setImmediate(() => {
      throw new Error('thrown on purpose');
    });
  },
  async 'six workers'() {
    const workers = Array.from({ length: 6 }, () => worker('tiny'));
    const ends = workers.map(exited);
    const results = await Promise.all([tinyResult(2), ...workers.map(message)]);
    await Promise.all(ends);
    say(`${new Set(results).size} result`);
  },
  async 'terminate mid-step'() {
    for (let i = 0; i < 3; i++) {
      const slow = worker('slow');
      await message(slow);
      await slow.terminate();
    }
    say(`${(await tinyResult()).split(',').length} logits`);
  },
  async 'workers that exit mid-step'() {
    const workers = Array.from({ length: 3 }, () => worker('slow, then exit'));
    say((await Promise.all(workers.map(exited))).join());
  },
  async 'worker that throws mid-step'() {
    const slow = worker('slow, then throw');
    const error = await new Promise<Error>((resolve) => slow.once('error', resolve));
    say(error.message);
  },
  // The main thread never loads the addon, so node unloads it with each worker.
  async 'workers only'() {
    for (let i = 0; i < 3; i++) {
      const one = worker('tiny');
      const result = message(one);
      await exited(one);
      if (i === 2) say(`${String(await result).split(',').length} logits`);
    }
    await sleep(50);
  },

  async tiny() {
    parentPort!.postMessage(await tinyResult(2));
  },
  async slow() {
    const { running } = await begin();
    parentPort!.postMessage('running');
    await running;
  },
  async 'slow, then exit'() {
    await begin();
    process.exit(3);
  },
  async 'slow, then throw'() {
    await begin();
    throw new Error('thrown in a worker');
  },
};

await scenarios[(isMainThread ? process.argv[2] : workerData) as string]!();
