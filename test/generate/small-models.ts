// Small models on disk: a few layers of random weights, with or without a tokenizer of single bytes and a template.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { saveSafetensors } from '../../src/weights/safetensors.js';
import { granite, randomTensors } from '../models/support.js';

export const smallVocab = 260;
/** A layer of Mamba-2 and one of attention, both with experts. */
export const hybridConfig = { ...granite, vocab_size: smallVocab };
export const hybridTensors = await randomTensors(hybridConfig);
export const hybrid = { config: hybridConfig, tensors: hybridTensors };

/** Every byte a token, under the names that byte-level vocabularies give them. */
function byteTokenizer(): object {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  const names = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
  return {
    version: '1.0',
    added_tokens: [{ id: 256, content: '<end>', special: true }],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: Object.fromEntries(names.map((name, id) => [name, id])), merges: [] },
  };
}

export async function writeHybrid(
  folder: string,
  options: { tokenizer?: boolean; template?: string } = {},
): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify(hybridConfig));
  await saveSafetensors(join(folder, 'model.safetensors'), hybridTensors);
  if (options.tokenizer ?? true) {
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
    const config = {
      eos_token: '<end>',
      ...(options.template === undefined ? {} : { chat_template: options.template }),
    };
    await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
  }
  return folder;
}
