import { expect, it } from 'vitest';
import { devices, openBytes } from '../../src/native/index.js';
import { open, safetensors, stepOf, tinyModel } from './support.js';

/** How often the event loop came round while something was under way. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0;
  let goes = true;
  const count = (): void => {
    turns++;
    if (goes) setImmediate(count);
  };
  setImmediate(count);
  await work();
  goes = false;
  return turns;
}

it('logits of many rows arrive whole', async () => {
  const vocab = 50_000;
  const { session } = await open(await tinyModel({ vocab }));
  const ids = Array.from({ length: 32 }, (_, i) => i * 1000);
  const rows = ids.map((_, i) => i);
  const words = stepOf({ ids, rows, pages: [0, 1] });
  const { logits, ids: chosen } = await session.step(words, { ids: true, logits: true });
  expect(logits).toHaveLength(32 * vocab);
  const last = stepOf({ ids, rows: [31], pages: [2, 3], slot: 1 });
  const alone = await session.step(last, { ids: true, logits: true });
  expect(Buffer.compare(new Uint8Array(logits!.buffer, 4 * 31 * vocab), new Uint8Array(alone.logits!.buffer))).toBe(0);
  expect(alone.ids![0]).toBe(chosen![31]);
  session.close();
});

it('a large tensor arrives whole, and large bytes go in, in turns', async () => {
  const bytes = safetensors({ a: [1 << 22], b: [3] });
  let tensor: Uint8Array = new Uint8Array(0);
  const turns = await turnsDuring(async () => {
    using file = await openBytes(bytes, 'large.safetensors');
    tensor = await file.read('a');
  });
  expect(tensor).toHaveLength(4 << 22);
  expect(Buffer.compare(tensor, bytes.subarray(bytes.length - (4 << 22) - 12, bytes.length - 12))).toBe(0);
  // 16 MiB in and 16 MiB out, a MiB a turn
  expect(turns).toBeGreaterThanOrEqual(32);
});

it('info of a file with many tensors', async () => {
  const shapes = Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`layer.${i}.weight`, [1, 2]]));
  using file = await openBytes(safetensors(shapes), 'many.safetensors');
  const info = await file.info();
  expect(info).toMatchObject({ format: 'safetensors', metadata: {} });
  expect(info.tensors).toHaveLength(3000);
  expect(info.tensors.find(({ name }) => name === 'layer.2999.weight')).toEqual({
    name: 'layer.2999.weight',
    dtype: 'f32',
    shape: [1, 2],
    bytes: 8,
  });
});

it('a step copies its words', async () => {
  const { session } = await open(await tinyModel());
  const expected = await session.step(stepOf({ ids: [1, 2, 3] }), { ids: true });
  const words = stepOf({ ids: [1, 2, 3] });
  const running = session.step(words, { ids: true });
  words.fill(-1);
  expect(await running).toEqual(expected);
  session.close();
});

it('copies of slots and pages are in order with the steps', async () => {
  const { session } = await open(await tinyModel());
  const prompt = session.step(stepOf({ ids: [1, 2, 3], pages: [0] }));
  const copied = session.copy(Int32Array.of(0, 1), Int32Array.of(0, 5));
  const one = session.step(stepOf({ ids: [9], decode: true, length: 3, pages: [0] }), { logits: true });
  const two = session.step(stepOf({ ids: [9], decode: true, length: 3, slot: 1, pages: [5] }), { logits: true });
  await Promise.all([prompt, copied]);
  expect((await one).logits).toEqual((await two).logits);
  session.close();
});

it('devices', () => {
  const [cpu] = devices();
  expect(cpu).toMatchObject({ kind: 'cpu', isa: expect.stringMatching(/^[\w-]+$/), name: expect.any(String) });
  expect(cpu!.threads).toBeGreaterThan(0);
  expect(cpu!.availableBytes).toBeGreaterThan(0);
});
