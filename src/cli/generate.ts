import { text as readAll } from 'node:stream/consumers';
import { CrosscurrentError } from '../errors.js';
import type { Generation } from '../generate/generation.js';
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
  const ids: number[] = [];
  let text = '';
  let generation: Generation | undefined;
  try {
    await using model = await loadWithProgress(flags, signal);
    await using drafting = await speculationOf(flags, signal);
    const speculate = drafting.speculate ? { speculate: drafting.speculate } : {};
    generation = model.generate(prompt, { ...samplingOf(flags), ...speculate, raw: flags.raw ?? false, signal });
    for await (const piece of generation) {
      text += piece.text;
      ids.push(...piece.ids);
      if (!flags.json) process.stdout.write(piece.text);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    process.exitCode = interrupted;
  } finally {
    release();
  }
  const stats = generation?.stats;
  if (flags.json) {
    // stats of what was interrupted are null: there is no whole of which they would speak
    const shown = stats ? { ...stats, seed: String(stats.seed) } : null;
    process.stdout.write(`${JSON.stringify({ text, ids, promptIds: generation?.promptIds ?? [], stats: shown })}\n`);
    return;
  }
  process.stdout.write('\n');
  if (stats && process.stderr.isTTY)
    process.stderr.write(
      `${stats.tokens} tokens, ${stats.tokensPerSecond.toFixed(1)} tokens/s, prompt ${stats.promptTokens} tokens in ${stats.firstTokenMs.toFixed(0)} ms\n`,
    );
}
