import { text as readAll } from 'node:stream/consumers';
import { CrosscurrentError } from '../errors.js';
import { interruptSignal, loadWithProgress, type ModelFlags, samplingOf, speculationOf } from './options.js';

interface Flags extends ModelFlags {
  raw?: boolean;
  json?: boolean;
}

/** Exit code of a command ended by Ctrl-C, as shells report it. */
const interrupted = 130;

export async function generate(argument: string | undefined, flags: Flags): Promise<void> {
  const prompt = argument ?? (process.stdin.isTTY ? '' : (await readAll(process.stdin)).trimEnd());
  if (prompt === '')
    throw new CrosscurrentError('EMPTY_PROMPT', 'prompt: expected some text, as an argument or on standard input');
  const { signal, release } = interruptSignal();
  try {
    await using model = await loadWithProgress(flags, signal);
    await using drafting = await speculationOf(flags, signal);
    const speculate = drafting.speculate ? { speculate: drafting.speculate } : {};
    const generation = model.generate(prompt, { ...samplingOf(flags), ...speculate, raw: flags.raw ?? false, signal });
    if (flags.json) {
      const result = await generation.completion();
      process.stdout.write(
        `${JSON.stringify({ ...result, stats: { ...result.stats, seed: String(result.stats.seed) } })}\n`,
      );
      return;
    }
    for await (const piece of generation) process.stdout.write(piece.text);
    process.stdout.write('\n');
    const stats = generation.stats;
    if (stats && process.stderr.isTTY)
      process.stderr.write(
        `${stats.tokens} tokens, ${stats.tokensPerSecond.toFixed(1)} tokens/s, prompt ${stats.promptTokens} tokens in ${stats.firstTokenMs.toFixed(0)} ms\n`,
      );
  } catch (error) {
    if (!signal.aborted) throw error;
    process.stdout.write('\n');
    process.exitCode = interrupted;
  } finally {
    release();
  }
}
