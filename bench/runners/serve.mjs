// What both runners share: commands over the process channel, each measured in wall and CPU time.
import { readFileSync } from 'node:fs';

/** Of this process alone: what getrusage tells on Linux also remembers the process that started it. */
export function peakRssMB() {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1.024e-3; // it counts KiB
  } catch {
    return process.resourceUsage().maxRSS * 1.024e-3;
  }
}

/** Token ids that are the same for every runner. */
export function promptIds(count, vocab) {
  let random = 1;
  return Array.from({ length: count }, () => {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    return 300 + (random % (vocab - 300));
  });
}

/**
 * `runner.load(options)` resolves to facts; `runner.generate(ids, tokens)` is an async iterable of tokens as they come (how many, one item a turn),
 * greedy, without an end. A measurement `{ prompt, tokens }` answers with the time to the first item and of the tokens that follow.
 */
export function serve(runner) {
  const cpuMs = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  const memory = () => ({ rssMB: process.memoryUsage.rss() / 1e6, peakRssMB: peakRssMB() });
  const commands = {
    async load(options) {
      const start = performance.now();
      const facts = await runner.load(options);
      return { ...facts, loadMs: performance.now() - start, sinceStartMs: performance.now(), ...memory() };
    },
    async measure({ prompt, tokens }) {
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
  };
  process.on('message', ({ id, command, options }) => {
    commands[command](options).then(
      (value) => process.send({ id, value }),
      (error) => process.send({ id, error: String(error?.stack ?? error) }),
    );
  });
  process.on('disconnect', () => process.exit());
}
