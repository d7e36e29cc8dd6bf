import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openTokenizer, type Tokenizer } from '../../src/text/index.js';
import { missing, readJson, sources, tokenizerGolden, unzip } from './support.js';

interface Case {
  name: string;
  text?: string;
  text_gzip_base64?: string;
  ids: number[];
  ids_plain?: number[];
  decoded?: string | { gzip_base64: string };
  decoded_skip_special?: string | { gzip_base64: string };
}
interface StreamingCase {
  name: string;
  ids: number[];
  emitted: string[];
  flushed: string;
}

const golden = missing(tokenizerGolden)
  ? undefined
  : readJson<{ cases: Case[]; streaming: { cases: StreamingCase[] } }>(tokenizerGolden);

describe.each(sources)('the tokenizer of $path', (source) => {
  const reason = missing(tokenizerGolden) ?? missing(source.path);
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    if (reason === undefined) tokenizer = (await openTokenizer(source))!;
  });
  afterAll(() => tokenizer?.dispose());

  // One test for all cases, with the names of those that differ: 630 tests of a millisecond drown a report
  it('encodes and decodes every golden string', async (context) => {
    context.skip(reason !== undefined, reason);
    const failures: string[] = [];
    for (const each of golden!.cases) {
      const text = each.text ?? unzip(each.text_gzip_base64!);
      const plain = (of: Case['decoded']) => (typeof of === 'object' ? unzip(of.gzip_base64) : of);
      const decoded = plain(each.decoded) ?? text;
      const check = (what: string, got: unknown, expected: unknown) => {
        if (got !== expected) failures.push(`${each.name}: ${what}`);
      };
      check('ids', String(await tokenizer.encode(text, { parseSpecial: true })), String(each.ids));
      check('ids_plain', String(await tokenizer.encode(text)), String(each.ids_plain ?? each.ids));
      check('decoded', await tokenizer.decode(each.ids), decoded);
      const skipped = plain(each.decoded_skip_special) ?? (each.ids.some((id) => id < 17) ? undefined : decoded);
      // The largest case has special tokens but, to stay small, no text without them
      if (skipped !== undefined) {
        check('decoded_skip_special', await tokenizer.decode(each.ids, { skipSpecialTokens: true }), skipped);
      }
    }
    expect(failures).toEqual([]);
    expect(golden!.cases.length).toBe(630);
  }, 120_000);

  it('streams complete characters only', (context) => {
    context.skip(reason !== undefined, reason);
    for (const { name, ids, emitted, flushed } of golden!.streaming.cases) {
      const stream = tokenizer.stream();
      expect(
        ids.map((id) => stream.push(id)),
        name,
      ).toEqual(emitted);
      expect(stream.end(), name).toBe(flushed);
    }
    expect(golden!.streaming.cases.length).toBe(51);
  });

  it('knows its special tokens and what ends a generation', (context) => {
    context.skip(reason !== undefined, reason);
    expect(tokenizer.vocabSize).toBe(49152);
    expect(tokenizer.specialTokens).toMatchObject({
      bos: { id: 1, text: '<|im_start|>' },
      eos: { id: 2, text: '<|im_end|>' },
      unk: { id: 0, text: '<|endoftext|>' },
      pad: { id: 2 },
    });
    expect([...tokenizer.endIds].sort()).toEqual([0, 2]);
    expect(tokenizer.chatTemplate).toContain('<|im_start|>assistant');
  });
});
