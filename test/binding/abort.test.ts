import { getEventListeners } from 'node:events';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadWeights, openBytes, openFile } from '../../src/native/index.js';
import { type Opened, open, slowModel, slowStep, stepOf, tinyModel } from './support.js';

let slow: Opened;
let tiny: Opened;

beforeAll(async () => {
  slow = await open(await slowModel());
  tiny = await open(await tinyModel());
});
afterAll(() => {
  slow.session.close();
  tiny.session.close();
});

const reason = new Error('no longer wanted');
const listeners = ({ signal }: AbortController): number => getEventListeners(signal, 'abort').length;

it('before: nothing is queued', async () => {
  const controller = new AbortController();
  controller.abort(reason);
  await expect(tiny.session.step(stepOf({ ids: [1] }), {}, controller.signal)).rejects.toBe(reason);
  await expect(openFile('/', { signal: controller.signal })).rejects.toBe(reason);
  expect(listeners(controller)).toBe(0);
});

it('during: the step ends early', async () => {
  const controller = new AbortController();
  const start = performance.now();
  const running = slow.session.step(slowStep(), { logits: true }, controller.signal);
  setTimeout(() => controller.abort(reason), 30);
  await expect(running).rejects.toBe(reason);
  expect(performance.now() - start).toBeLessThan(2000);
  expect(listeners(controller)).toBe(0);
});

it('during: a timeout', async () => {
  const running = slow.session.step(slowStep(), {}, AbortSignal.timeout(20));
  await expect(running).rejects.toMatchObject({ name: 'TimeoutError' });
});

it('while queued: the step never starts, and the others are not touched', async () => {
  const controller = new AbortController();
  const steps = [1, 2, 3].map((id) => tiny.session.step(stepOf({ ids: [id] }), { ids: true }));
  const queued = tiny.session.step(stepOf({ ids: [4], slot: 1 }), { ids: true }, controller.signal);
  controller.abort(reason);
  await expect(queued).rejects.toBe(reason);
  expect(await Promise.all(steps)).toHaveLength(3);
});

it('after: nothing happens', async () => {
  const controller = new AbortController();
  const { ids } = await tiny.session.step(stepOf({ ids: [1, 2] }), { ids: true }, controller.signal);
  expect(ids).toHaveLength(1);
  expect(listeners(controller)).toBe(0);
  controller.abort(reason);
  expect(await tiny.session.step(stepOf({ ids: [1, 2] }), { ids: true })).toEqual({ ids });
});

it('an aborted step loses its sequence and no other', async () => {
  const { session } = await open(await slowModel());
  await expect(session.step(slowStep(), {}, AbortSignal.timeout(20))).rejects.toMatchObject({ name: 'TimeoutError' });
  await expect(session.save(0, new Int32Array(0))).rejects.toMatchObject({ code: 'INVALID_STATE' });
  session.close();
});

it('a load reports progress, and ends with what the report throws', async () => {
  using file = await openBytes(slow.model.file, 'slow.safetensors');
  const specs = slow.model.program.weights;
  const seen: number[] = [];
  const onProgress = ({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }) => {
    seen.push(doneBytes / totalBytes);
  };
  const weights = await loadWeights(file, slow.program, specs, { onProgress });
  expect(seen.at(-1)).toBe(1);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  weights.close();
  const failing = loadWeights(file, slow.program, specs, {
    onProgress() {
      throw reason;
    },
  });
  await expect(failing).rejects.toBe(reason);
});

it('a load ends early', async () => {
  using file = await openBytes(slow.model.file, 'slow.safetensors');
  const controller = new AbortController();
  const { program, model } = slow;
  // others keep the lane busy, so that it cannot end before it is aborted
  const before = Array.from({ length: 16 }, () => loadWeights(file, program, model.program.weights));
  const loading = loadWeights(file, program, model.program.weights, { signal: controller.signal });
  setImmediate(() => controller.abort(reason));
  await expect(loading).rejects.toBe(reason);
  for (const weights of await Promise.all(before)) weights.close();
  expect(listeners(controller)).toBe(0);
});
