// Many requests at once on one model, of every kind, with aborts at random; each answer is held against the request run alone.
import { createHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import type { SchedulerStats } from '../../src/generate/scheduler.js';
import {
  type Drafter,
  draftModel,
  type GenerateOptions,
  lookahead,
  type Model,
  promptLookup,
  type Speculation,
  selfDraft,
  tree,
} from '../../src/index.js';
import { hostOf } from '../../src/model.js';
import { spread } from './statistics.js';

export interface SoakOptions {
  readonly seconds: number;
  /** Requests under way at any time. */
  readonly concurrency: number;
  readonly seed: number;
  /** Model of the same tokenizer to draft with. */
  readonly draft?: Model;
  /** Different requests; what each gives alone is found out first. */
  readonly kinds?: number;
  readonly mostTokens?: number;
  /** Told now and then how it goes. */
  readonly onProgress?: (report: {
    readonly second: number;
    readonly finished: number;
    readonly rssMB: number;
  }) => void;
}

export interface SoakReport {
  readonly finished: number;
  readonly aborted: number;
  readonly tokens: number;
  /** Answers that differ from the request run alone; 0. */
  readonly wrong: readonly string[];
  /** Failures other than the aborts asked for; none. */
  readonly errors: readonly string[];
  readonly drafted: number;
  readonly accepted: number;
  /** Between pieces of one answer, as its reader sees them. */
  readonly interTokenMs: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly firstTokenMs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** Longest time that the event loop was held. */
  readonly gapMs: number;
  readonly gapP99Ms: number;
  /** Of the scheduler, in the end: preemptions, shared prefixes. */
  readonly scheduler: SchedulerStats;
  /** Medians of ten parts of the run after its first fifth. */
  readonly rssMB: readonly number[];
  readonly rssSpreadPercent: number;
}

interface Request {
  readonly prompt: Int32Array;
  readonly options: GenerateOptions;
  readonly alone: readonly number[];
}

const aborted = new Error('no longer wanted');

export async function soak(model: Model, options: SoakOptions): Promise<SoakReport> {
  const { seconds, concurrency, draft, kinds = 48, mostTokens = 96, onProgress } = options;
  const random = generator(options.seed);
  const requests = await makeRequests(model, random, kinds, mostTokens);
  const speculations: (() => Speculation | undefined)[] = [
    () => undefined,
    () => promptLookup({ minMatch: 1 }),
    () => lookahead(),
    () => tree(promptLookup()),
    () => selfDraft({ layers: 2 }),
    () => () => wildDrafter(generator(random.integer(1 << 30)), model.info.vocab),
    ...(draft ? [() => draftModel(draft), () => tree(draftModel(draft), { width: 2 })] : []),
  ];
  const count = { finished: 0, aborted: 0, tokens: 0, drafted: 0, accepted: 0 };
  const [wrong, errors]: [string[], string[]] = [[], []];
  const [gaps, firsts] = [createHistogram(), createHistogram()];
  const started = performance.now();
  const ends = started + 1000 * seconds;

  const one = async (): Promise<void> => {
    const request = random.pick(requests);
    const maxTokens = 1 + random.integer(mostTokens);
    const speculate = random.pick(speculations)();
    const abort = new AbortController();
    const [abortsIn, leavesAfter] = [
      random.chance(0.25) ? random.integer(600) : undefined,
      random.chance(0.1) ? random.integer(maxTokens) : undefined,
    ];
    const timer = abortsIn === undefined ? undefined : setTimeout(() => abort.abort(aborted), abortsIn);
    const got: number[] = [];
    let last = performance.now();
    try {
      const generation = model.generate(request.prompt, {
        ...request.options,
        maxTokens,
        priority: random.integer(3),
        signal: abort.signal,
        ...(speculate ? { speculate } : {}),
      });
      let left = false;
      for await (const { ids } of generation) {
        const now = performance.now();
        (got.length === 0 ? firsts : gaps).record(Math.max(1, Math.round(1e6 * (now - last))));
        last = now;
        got.push(...ids);
        left = leavesAfter !== undefined && got.length > leavesAfter;
        if (left) break;
      }
      if (left) count.aborted++;
      else count.finished++;
      count.drafted += generation.stats?.speculation?.drafted ?? 0;
      count.accepted += generation.stats?.speculation?.accepted ?? 0;
      const expected = left ? request.alone.slice(0, got.length) : request.alone.slice(0, maxTokens);
      if (!same(got, expected)) wrong.push(`${describe(request, maxTokens)}: ${got} instead of ${expected}`);
    } catch (error) {
      if (error !== aborted) errors.push(String(error));
      count.aborted++;
      if (!same(got, request.alone.slice(0, got.length)))
        wrong.push(`${describe(request, maxTokens)}, aborted: ${got}`);
    } finally {
      clearTimeout(timer);
      count.tokens += got.length;
    }
  };

  const rss: number[] = [];
  const sampler = setInterval(() => {
    const rssMB = process.memoryUsage.rss() / 1e6;
    rss.push(rssMB);
    onProgress?.({ second: Math.round((performance.now() - started) / 1000), finished: count.finished, rssMB });
  }, 1000);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (performance.now() < ends && wrong.length + errors.length < 10) await one();
    }),
  );
  delay.disable();
  clearInterval(sampler);
  const { scheduler } = hostOf(model);
  scheduler.audit();
  const settled = partsOf(rss.slice(Math.floor(rss.length / 5)), 10).map((part) => spread(part).median);
  const [low, high] = [Math.min(...settled), Math.max(...settled)];
  const ms = (histogram: typeof gaps) => ({
    p50: histogram.percentile(50) / 1e6,
    p99: histogram.percentile(99) / 1e6,
    max: histogram.max / 1e6,
  });
  return {
    ...count,
    wrong,
    errors,
    interTokenMs: ms(gaps),
    firstTokenMs: ms(firsts),
    gapMs: delay.max / 1e6 - 1,
    gapP99Ms: delay.percentile(99) / 1e6 - 1,
    scheduler: scheduler.stats,
    rssMB: settled,
    rssSpreadPercent: (100 * (high - low)) / (high + low),
  };
}

/** Prompts short and long, some of which repeat; greedy and sampled; each with what it gives alone. */
async function makeRequests(model: Model, random: Random, kinds: number, mostTokens: number): Promise<Request[]> {
  const { vocab, context } = model.info;
  const requests: Request[] = [];
  for (let i = 0; i < kinds; i++) {
    const longest = Math.min(i % 6 === 0 ? 600 : 60, context - mostTokens);
    const length = 1 + random.integer(longest);
    const period = random.chance(0.3) ? 1 + random.integer(12) : length;
    const words = Array.from({ length: period }, () => random.integer(vocab));
    const prompt = Int32Array.from({ length }, (_, at) => words[at % period] as number);
    const sampled = {
      temperature: 0.8,
      topP: 0.95,
      seed: random.integer(1 << 30),
      presencePenalty: i % 4 === 1 ? 0.5 : 0,
    };
    const options: GenerateOptions = { ignoreEos: i % 3 !== 0, ...(i % 2 === 1 ? sampled : {}) };
    const { ids } = await model.complete(prompt, { ...options, maxTokens: mostTokens });
    requests.push({ prompt, options, alone: ids });
  }
  return requests;
}

/** Trees of tokens that are almost never right. */
function wildDrafter(random: Random, vocab: number): Drafter {
  return {
    propose({ limit }) {
      const ids = Array.from({ length: random.integer(Math.min(limit, 12) + 1) }, () => random.integer(vocab));
      return { ids, parents: ids.map((_, i) => random.integer(i + 1) - 1) };
    },
  };
}

const describe = ({ prompt, options }: Request, maxTokens: number): string =>
  `prompt of ${prompt.length}, ${maxTokens} tokens, seed ${options.seed ?? 'none'}`;

const same = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((id, i) => id === b[i]);

function partsOf(values: readonly number[], parts: number): number[][] {
  const size = Math.max(1, Math.ceil(values.length / parts));
  return Array.from({ length: Math.ceil(values.length / size) }, (_, i) => values.slice(i * size, (i + 1) * size));
}

interface Random {
  /** 0 … below - 1 */
  integer(below: number): number;
  chance(share: number): boolean;
  pick<T>(from: readonly T[]): T;
}

/** Mulberry32: the same numbers from the same seed. */
export function generator(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const integer = (below: number): number => Math.floor(next() * below);
  return { integer, chance: (share) => next() < share, pick: (from) => from[integer(from.length)] as never };
}
