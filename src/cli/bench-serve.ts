// The side of a benchmark that runs in a process of its own: commands come over the process channel, measurements go back.
import { readFileSync } from 'node:fs';
import type { Loaded, Measured, ModelOptions } from './bench-runner.js';

/** Of this process alone: what getrusage tells on Linux also remembers the process that started it. */
export function peakRssMB(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1.024e-3; // it counts KiB
  } catch {
    return process.resourceUsage().maxRSS * 1.024e-3;
  }
}

/** Token ids that are the same for every runner. */
export function promptIds(count: number, vocab: number): number[] {
  let random = 1;
  return Array.from({ length: count }, () => {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    return 300 + (random % (vocab - 300));
  });
}

/** What is told of an error; those of ours are typed again on the other side. */
export interface SentError {
  readonly message: string;
  readonly code: string | undefined;
  readonly operand: string | undefined;
  readonly expected: string | undefined;
  readonly got: string | undefined;
}

/** Commands by name; each resolves to what is sent back. Ready is said first, so that the other side knows it from one that failed. */
export function answer(commands: Readonly<Record<string, (options: never) => Promise<unknown>>>): void {
  process.on('message', ({ id, command, options }: { id: number; command: string; options: never }) => {
    const call = commands[command];
    (call ? call(options) : Promise.reject(new Error(`no command ${command}`))).then(
      (value) => process.send?.({ id, value }),
      (error: Error & Partial<SentError>) => {
        const { message, code, operand, expected, got } = error;
        process.send?.({ id, error: { message, code, operand, expected, got } satisfies SentError });
      },
    );
  });
  process.on('disconnect', () => process.exit());
  process.send?.({ ready: true });
}

export interface ModelRunner {
  /** Resolves to facts that go into the result. */
  load(options: ModelOptions): Promise<object>;
  readonly vocab: number;
  /** Tokens as they come (how many, one item a turn): greedy, without an end. */
  generate(ids: number[], tokens: number): AsyncIterable<number>;
}

/** A measurement `{ prompt, tokens }` answers with the time to the first item and of the tokens that follow, in wall and CPU time. */
export function answerModel(runner: ModelRunner): void {
  const cpuMs = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  const memory = () => ({ rssMB: process.memoryUsage.rss() / 1e6, peakRssMB: peakRssMB() });
  answer({
    async load(options: ModelOptions): Promise<Loaded> {
      const start = performance.now();
      const facts = await runner.load(options);
      return { ...facts, loadMs: performance.now() - start, sinceStartMs: performance.now(), ...memory() };
    },
    async measure({ prompt, tokens }: { prompt: number; tokens: number }): Promise<Measured> {
      const ids = promptIds(prompt, runner.vocab);
      const start = { at: performance.now(), cpu: cpuMs() };
      let first = start;
      let [count, inFirst] = [0, 0];
      for await (const arrived of runner.generate(ids, tokens + 1)) {
        count += arrived;
        if (inFirst === 0) [first, inFirst] = [{ at: performance.now(), cpu: cpuMs() }, arrived];
        if (count > tokens) break;
      }
      const end = { at: performance.now(), cpu: cpuMs() };
      return {
        prefill: { wallMs: first.at - start.at, cpuMs: first.cpu - start.cpu },
        decode: { wallMs: end.at - first.at, cpuMs: end.cpu - first.cpu, tokens: count - inFirst },
        ...memory(),
      };
    },
  });
}
