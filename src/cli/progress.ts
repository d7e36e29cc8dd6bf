import { Presets, SingleBar } from 'cli-progress';

/** A bar on the terminal's error stream; nothing where that is no terminal. */
export function progressBar(label: string): { update(done: number, total: number): void; stop(): void } {
  if (!process.stderr.isTTY) return { update: () => {}, stop: () => {} };
  const bar = new SingleBar(
    {
      format: `${label} {bar} {percentage}% of {megabytes} MB`,
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
    },
    Presets.shades_classic,
  );
  let started = false;
  return {
    update(done, total) {
      const megabytes = (total / 1e6).toFixed(0);
      if (!started) bar.start(total, done, { megabytes });
      else bar.update(done, { megabytes });
      started = true;
    },
    stop: () => bar.stop(),
  };
}
