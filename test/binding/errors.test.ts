import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CrosscurrentError, errorCodes } from '../../src/errors.js';
import { addon } from '../../src/native/addon.js';
import { loadWeights, openBytes, openFile, openSession, parseProgram } from '../../src/native/index.js';
import type { NativeAddon } from '../../src/native/types.js';
import { type Opened, open, pageTokens, safetensors, stepOf, tinyModel } from './support.js';

const native = addon() as unknown as Record<keyof NativeAddon, (...args: unknown[]) => unknown>;
let opened: Opened;

beforeAll(async () => {
  opened = await open(await tinyModel());
});
afterAll(() => {
  opened.session.close();
  opened.weights.close();
  opened.program.close();
});

/** The error of a call, whether thrown or rejected. */
async function errorOf(call: () => unknown): Promise<CrosscurrentError> {
  try {
    await call();
  } catch (error) {
    expect(error).toBeInstanceOf(CrosscurrentError);
    expect(errorCodes).toContain((error as CrosscurrentError).code);
    return error as CrosscurrentError;
  }
  throw new Error('no error');
}

/** By kind of argument: whether a value is right. */
const accepts = {
  handle: () => false,
  number: () => false,
  text: (value: unknown) => typeof value === 'string',
  words: () => false,
  bytes: () => false,
  list: Array.isArray,
  options: (value: unknown) => typeof value === 'object' && value !== null,
  constructor: (value: unknown) => typeof value === 'function',
} as const;

const wrongValues: readonly unknown[] = [
  ...[undefined, null, true, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 10n, 'text', Symbol('s'), () => {}],
  ...[
    {},
    [],
    new Proxy({}, {}),
    Object.create(null),
    new Float64Array(2),
    new ArrayBuffer(8),
    new DataView(new ArrayBuffer(8)),
  ],
];

interface Argument {
  readonly kind: keyof typeof accepts;
  /** A right one. */
  value(): unknown;
}

const session: Argument = { kind: 'handle', value: () => opened.session.handle };
const program: Argument = { kind: 'handle', value: () => opened.program.handle };
const weights: Argument = { kind: 'handle', value: () => opened.weights.handle };
const control: Argument = { kind: 'handle', value: () => native.newControl() };
const words: Argument = { kind: 'words', value: () => stepOf({ ids: [1] }) };
const units: Argument = { kind: 'words', value: () => new Int32Array(0) };
const bytes: Argument = { kind: 'bytes', value: () => new Uint8Array(8) };
const zero: Argument = { kind: 'number', value: () => 0 };
const path: Argument = { kind: 'text', value: () => '/' };
const options: Argument = { kind: 'options', value: () => ({}) };

describe('arguments of a wrong type', () => {
  const calls: readonly [keyof NativeAddon, ...Argument[]][] = [
    ['setErrorClass', { kind: 'constructor', value: () => CrosscurrentError }],
    ['cancel', control],
    ['progress', control],
    ['close', control],
    ['newBlock', zero],
    ['openFile', path],
    ['openBytes', bytes, path],
    ['addSpecs', { kind: 'handle', value: () => native.newSpecs() }, { kind: 'list', value: () => [] }],
    ['parseProgram', words],
    ['createSession', program, weights, options],
    ['weightsBytes', weights],
    ['step', session, words, zero],
    ['readBuffer', session, zero],
    ['readState', session, zero, zero],
    ['copyUnits', session, units, units],
    ['save', session, zero, units],
    ['restore', session, bytes, zero, units],
    ['sessionLimits', session],
    ['sessionBytes', session],
    ['expertLoads', session],
  ];

  it.each(calls)('%s', async (name, ...list) => {
    for (let i = 0; i < list.length; i++) {
      for (const wrong of wrongValues) {
        if (accepts[list[i]!.kind](wrong)) continue;
        const args = list.map(({ value }, k) => (k === i ? wrong : value()));
        const { code, operand } = await errorOf(() => native[name](...args));
        expect({ code, operand }, `argument ${i}: ${typeof wrong}`).toEqual({
          code: 'INVALID_ARGUMENT',
          operand: expect.stringMatching(/./),
        });
      }
    }
  });

  it('no arguments at all', async () => {
    const none = new Set<string>(['newControl', 'newSpecs', 'devices', 'coreLatency']);
    for (const name of Object.keys(native) as (keyof NativeAddon)[])
      if (!none.has(name)) expect((await errorOf(() => native[name]())).code, name).toBe('INVALID_ARGUMENT');
  });

  it('says what was expected and what was there', async () => {
    expect(await errorOf(() => native.step('session', new Int32Array(1), 0))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      operand: 'step: session',
      expected: 'a session',
      got: 'a string',
      message: 'step: session: expected a session, got a string',
    });
  });
});

describe('handles', () => {
  it('of another kind', async () => {
    const { session, program, weights } = opened;
    const error = await errorOf(() => native.step(weights.handle, new Int32Array(1), 0));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', expected: 'a session', got: 'a weights' });
    expect((await errorOf(() => native.weightsBytes(session.handle))).got).toBe('a session');
    expect((await errorOf(() => native.fileInfo(program.handle))).got).toBe('a program');
    // neither a copy nor an heir has the tag
    expect((await errorOf(() => native.sessionLimits({ ...session.handle }))).got).toBe('an object');
    expect((await errorOf(() => native.sessionLimits(Object.create(session.handle)))).got).toBe('an object');
  });

  it('closed twice, and used after', async () => {
    const { session, weights, program } = await open(await tinyModel());
    for (const item of [session, weights, program]) {
      item.close();
      item.close();
    }
    const disposed = [
      () => session.step(stepOf({ ids: [1] })),
      () => session.read(0),
      () => session.save(0, new Int32Array(0)),
      () => native.sessionLimits(session.handle),
      () => native.weightsBytes(weights.handle),
      () => openSession(program, weights, { slots: 1, pages: 1, pageTokens, window: 1 }),
    ];
    for (const call of disposed) expect((await errorOf(call)).code).toBe('DISPOSED');
  });

  it('closed while steps are queued: they still run', async () => {
    const { session, weights, program } = await open(await tinyModel());
    const steps = Array.from({ length: 20 }, () => session.step(stepOf({ ids: [1, 2, 3] }), { ids: true }));
    for (const item of [session, weights, program]) item.close();
    for (const { ids } of await Promise.all(steps)) expect(ids).toHaveLength(1);
  });
});

describe('what calls check', () => {
  it('ranges of slots, pages, buffers and states', async () => {
    const { session } = opened;
    const none = new Int32Array(0);
    const calls = [
      () => session.read(1000),
      () => session.read(-1),
      () => session.read(0.5),
      () => session.readState(2, 0),
      () => session.readState(0, 4),
      () => session.readState(1, 16),
      () => session.copy(Int32Array.of(0, 4), none),
      () => session.copy(Int32Array.of(0), none),
      () => session.copy(none, Int32Array.of(-1, 0)),
      () => session.save(4, none),
      () => session.save(0, Int32Array.of(16)),
      () => session.restore(new Uint8Array(4), -1, none),
    ];
    for (const call of calls) expect((await errorOf(call)).code).toBe('INVALID_ARGUMENT');
  });

  it('steps', async () => {
    const { session } = opened;
    expect((await errorOf(() => session.step(stepOf({ ids: [64] })))).code).toBe('TOKEN_OUT_OF_RANGE');
    const long = stepOf({ ids: [1], length: 16 });
    expect((await errorOf(() => session.step(long))).code).toBe('CONTEXT_OVERFLOW');
    const blind = stepOf({ ids: [1], samples: false });
    expect((await errorOf(() => session.step(blind, { ids: true }))).code).toBe('INVALID_ARGUMENT');
    const detached = stepOf({ ids: [1] });
    structuredClone(detached, { transfer: [detached.buffer as ArrayBuffer] });
    expect((await errorOf(() => session.step(detached))).code).toBe('INVALID_ARGUMENT');
  });

  it('saved states', async () => {
    const { session } = opened;
    await session.step(stepOf({ ids: [1, 2, 3], slot: 3, pages: [9] }));
    const bytes = await session.save(3, Int32Array.of(9));
    expect((await errorOf(() => session.restore(bytes.slice(0, -4), 3, Int32Array.of(9)))).code).toBe('INVALID_STATE');
    expect((await errorOf(() => session.restore(bytes, 3, new Int32Array(0)))).code).toBe('INVALID_STATE');
    await session.restore(bytes, 2, Int32Array.of(8));
    expect(await session.save(2, Int32Array.of(8))).toEqual(bytes);
  });

  it('options of a session', async () => {
    const { program, weights } = opened;
    const valid = { slots: 1, pages: 1, pageTokens, window: 1 };
    for (const [key, value] of [
      ['slots', 0],
      ['slots', 1.5],
      ['slots', '1'],
      ['pages', -1],
      ['pageTokens', 0],
      ['window', Number.NaN],
      ['threads', 1e9],
      ['exact', 1],
    ] as const)
      expect(await errorOf(() => openSession(program, weights, { ...valid, [key]: value }))).toMatchObject({
        code: 'INVALID_ARGUMENT',
        operand: expect.stringContaining(key),
      });
    const huge = openSession(program, weights, { ...valid, slots: 1 << 20, window: 4096 });
    expect((await errorOf(() => huge)).code).toBe('OUT_OF_MEMORY');
  });

  it('weights', async () => {
    const { program } = opened;
    using file = await openBytes(safetensors({ other: [2] }), 'other.safetensors');
    const { weights } = opened.model.program;
    const missing = await errorOf(() => loadWeights(file, program, weights));
    expect(missing.code).toBe('MISSING_TENSORS');
    for (const { name } of weights) expect(missing.message).toContain(name);
    expect((await errorOf(() => loadWeights(file, program, weights.slice(1)))).code).toBe('INVALID_PROGRAM');
    const part = { tensor: 'a', shape: [2, 2] };
    const spec = { name: 'a', form: 'matrix', shape: [2, 2], parts: [part], transform: 'none' };
    for (const wrong of [
      { ...spec, name: 1 },
      { ...spec, form: 'f16' },
      { ...spec, shape: [0] },
      { ...spec, shape: [2 ** 31, 2 ** 31] },
      { ...spec, parts: [{ ...part, rows: [1, 1] }] },
      { ...spec, parts: [{ ...part, rows: [0, 3] }] },
      { ...spec, parts: [{ ...part, shape: [] }] },
      { ...spec, transform: 'exp' },
      { ...spec, transform: 'neg_exp' },
      { ...spec, values: new Float32Array(4) },
      { ...spec, parts: new Array(2 ** 32 - 1) },
    ])
      expect((await errorOf(() => native.addSpecs(native.newSpecs(), [wrong]))).code).toBe('INVALID_ARGUMENT');
  });

  it('files', async () => {
    expect((await errorOf(() => openFile('/no/such/file'))).code).toBe('IO');
    expect((await errorOf(() => openFile(''))).code).toBe('INVALID_ARGUMENT');
    expect((await errorOf(() => openFile('a\0b'))).code).toBe('INVALID_ARGUMENT');
    expect((await errorOf(() => openBytes(new Uint8Array(4), 'bytes'))).code).toMatch(
      /^(INVALID_FILE|UNSUPPORTED_FORMAT)$/,
    );
    using file = await openBytes(safetensors({ a: [2] }), 'a.safetensors');
    expect((await errorOf(() => file.read('b'))).code).toBe('MISSING_TENSORS');
    await errorOf(() => file.strings('tokenizer.ggml.tokens'));
    await errorOf(() => file.numbers('tokenizer.ggml.scores'));
  });

  it('programs', async () => {
    expect((await errorOf(() => parseProgram(new Int32Array(0)))).code).toBe('INVALID_PROGRAM');
  });

  it('an error thrown by a getter passes through', () => {
    const options = {
      get slots(): number {
        throw new RangeError('from the getter');
      },
    };
    expect(() => native.createSession(opened.program.handle, opened.weights.handle, options)).toThrow(RangeError);
  });
});
