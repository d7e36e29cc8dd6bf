import { createInterface } from 'node:readline/promises';
import type { GenerateOptions } from '../generate/options.js';
import type { Model } from '../model.js';
import type { ChatMessage } from '../text/index.js';
import { interruptSignal, loadWithProgress, type ModelFlags, samplingOf, speculationOf } from './options.js';

interface Flags extends ModelFlags {
  system?: string;
}

/** Reads a line, writes an answer, remembers both. Ctrl-C ends an answer; at the prompt, or with Ctrl-D, it ends the talk. */
export async function chat(flags: Flags): Promise<void> {
  const loading = interruptSignal();
  await using model = await loadWithProgress(flags, loading.signal);
  await using drafting = await speculationOf(flags, loading.signal);
  loading.release();
  const options: GenerateOptions = {
    ...samplingOf(flags),
    ...(drafting.speculate ? { speculate: drafting.speculate } : {}),
  };
  const terminal = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: process.stdin.isTTY === true,
  });
  const messages: ChatMessage[] = flags.system ? [{ role: 'system', content: flags.system }] : [];
  const show = (): void => {
    if (process.stdin.isTTY) terminal.setPrompt('> ');
    terminal.prompt();
  };
  terminal.setPrompt('');
  show();
  for await (const line of terminal) {
    if (line.trim() !== '') {
      messages.push({ role: 'user', content: line });
      messages.push({ role: 'assistant', content: await answer(model, messages, options) });
    }
    show();
  }
}

async function answer(model: Model, messages: readonly ChatMessage[], options: GenerateOptions): Promise<string> {
  const { signal, release } = interruptSignal();
  let text = '';
  try {
    for await (const piece of model.generate(messages, { ...options, signal })) {
      text += piece.text;
      process.stdout.write(piece.text);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    release();
  }
  process.stdout.write('\n');
  return text;
}
