import { int4Matmul, int8Matmul, linear, matmul, moe, router } from '../ops.js';
import * as reference from '../reference/index.js';
import { type PackedWeight, packInt4, packInt8, type Weight } from '../weights.js';
import { bytesOf, type KernelCase, Random } from './case.js';

export interface MatmulAxes {
  rows: number;
  in: number;
  out: number;
}

/** The upper half of an f32, and what it is worth. */
export function bf16Of(values: Float32Array): { data: Uint16Array; values: Float32Array } {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const data = Uint16Array.from(bits, (word) => word >>> 16);
  return { data, values: new Float32Array(Uint32Array.from(data, (word) => word << 16).buffer) };
}

/** f16 numbers of this precision: whole multiples of 2^-9 below 2, whose bits are easy to say. */
export function f16Of(values: Float32Array): { data: Uint16Array; values: Float32Array } {
  const rounded = values.map((value) => Math.round(value * 512) / 512);
  const data = Uint16Array.from(rounded, (value) => {
    if (value === 0) return 0;
    const exponent = Math.floor(Math.log2(Math.abs(value)));
    const mantissa = (Math.abs(value) / 2 ** exponent - 1) * 1024;
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | mantissa;
  });
  return { data, values: rounded };
}

export function matmulCase(axes: MatmulAxes, dtype: 'f32' | 'f16' | 'bf16' = 'f32'): KernelCase {
  const random = new Random(11);
  const x = random.floats(axes.rows * axes.in);
  const plain = random.floats(axes.out * axes.in);
  const half = dtype === 'f32' ? undefined : dtype === 'f16' ? f16Of(plain) : bf16Of(plain);
  const weight = half && dtype !== 'f32' ? { dtype, data: half.data } : plain;
  const bias = random.floats(axes.out);
  const out = { y: new Float32Array(axes.rows * axes.out) };
  return {
    op: 'matmul',
    label: `${axes.rows} x ${axes.in} x ${axes.out} ${dtype}`,
    axes: { ...axes, dtype },
    tolerance: 1e-5,
    bytes: bytesOf(x, half?.data ?? plain, out.y),
    flops: 2 * axes.rows * plain.length,
    run: (options) => matmul({ x, weight, bias, shape: axes, out, ...options }),
    expected: () => ({ y: reference.linear(x, half?.values ?? plain, axes, { bias }) }),
  };
}

/** With everything that `linear` adds: bias, scale and residual. */
export function linearCase(axes: MatmulAxes): KernelCase {
  const random = new Random(12);
  const x = random.floats(axes.rows * axes.in);
  const weight = random.floats(axes.out * axes.in);
  const bias = random.floats(axes.out);
  const residual = random.floats(axes.rows * axes.out);
  const out = { y: new Float32Array(axes.rows * axes.out) };
  return {
    op: 'linear',
    label: `${axes.rows} x ${axes.in} x ${axes.out}`,
    tolerance: 1e-5,
    bytes: bytesOf(x, weight, residual, out.y),
    flops: 2 * axes.rows * weight.length,
    run: (options) => linear({ x, weight, bias, residual, scale: 0.5, out, ...options }),
    expected: () => ({ y: reference.linear(x, weight, axes, { bias, residual, scale: 0.5 }) }),
  };
}

export interface PackedAxes extends MatmulAxes {
  group: number;
  /** With zero points other than 8. */
  zeros?: boolean;
  exact?: boolean;
  /** Scales that f16 does not hold. */
  wide?: boolean;
}

/** `below(end)` each; many are copies of the first million, which no kernel sees. */
function manyInts(random: Random, count: number, end: number): Uint8Array {
  const values = new Uint8Array(count);
  const most = Math.min(count, 2 ** 20);
  for (let i = 0; i < most; i++) values[i] = random.below(end);
  for (let filled = most; filled < count; filled *= 2) values.copyWithin(filled, 0, Math.min(filled, count - filled));
  return values;
}

/** Integers and scales at random, and what they are worth. */
function int4Parts(random: Random, count: number, { group, zeros = false, wide = false }: PackedAxes) {
  const values = manyInts(random, count, 16);
  const scales = Float32Array.from({ length: count / group }, () =>
    wide ? random.number(0.001, 0.1) : (1 + random.below(64)) / 1024,
  );
  const points = zeros ? Uint8Array.from(scales, () => random.below(16)) : undefined;
  const worth = (): Float64Array =>
    Float64Array.from(values, (q, i) => {
      const at = Math.floor(i / group);
      return scales[at]! * (q - (points ? points[at]! : 8));
    });
  return { values, scales, ...(points ? { zeros: points } : {}), worth };
}

export async function int4Case(axes: PackedAxes): Promise<KernelCase> {
  const random = new Random(13);
  const { worth, ...parts } = int4Parts(random, axes.out * axes.in, axes);
  const weight = await packInt4({ ...parts, group: axes.group, shape: { in: axes.in } });
  return packedCase('int4Matmul', axes, weight, worth, (args) =>
    int4Matmul({ ...args, weight: weight as PackedWeight<'int4'> }),
  );
}

export async function int8Case(axes: PackedAxes): Promise<KernelCase> {
  const random = new Random(14);
  const values = Int8Array.from({ length: axes.out * axes.in }, () => random.below(255) - 127);
  const scales = Float32Array.from({ length: values.length / axes.group }, () => (1 + random.below(64)) / 16384);
  const worth = (): Float64Array => Float64Array.from(values, (q, i) => scales[Math.floor(i / axes.group)]! * q);
  const weight = await packInt8({ values, scales, group: axes.group, shape: { in: axes.in } });
  return packedCase('int8Matmul', axes, weight, worth, (args) =>
    int8Matmul({ ...args, weight: weight as PackedWeight<'int8'> }),
  );
}

function packedCase(
  op: string,
  axes: PackedAxes,
  weight: PackedWeight,
  worth: () => Float64Array,
  run: (args: { x: Float32Array; exact: boolean; out: { y: Float32Array } }) => Promise<{ y: Float32Array }>,
): KernelCase {
  const { exact = false } = axes;
  const x = new Random(15).floats(axes.rows * axes.in);
  const out = { y: new Float32Array(axes.rows * axes.out) };
  const mode = `${axes.zeros ? ', zeros' : ''}${axes.wide ? ', f32 scales' : ''}${exact ? ', exact' : ''}`;
  return {
    op,
    label: `${axes.rows} x ${axes.in} x ${axes.out} g${axes.group}${mode}`,
    axes,
    tolerance: 2e-5,
    bytes: bytesOf(x, out.y) + weight.bytes,
    flops: 2 * axes.rows * axes.in * axes.out,
    run: (options) => run({ x, exact, out, ...options }),
    expected: () => ({ y: reference.linear(exact ? x : reference.roundActivations(x), worth(), axes) }),
    dispose: () => weight.dispose(),
  };
}

export interface MoeAxes {
  t: number;
  experts: number;
  topK: number;
  dim: number;
  ff: number;
}

/** f32 experts, or int4 ones with exact activations. */
export async function moeCase(axes: MoeAxes, format: 'f32' | 'int4' | 'int4 fast' = 'f32'): Promise<KernelCase> {
  const { t, experts, topK, dim, ff } = axes;
  const random = new Random(16);
  const x = random.floats(t * dim);
  const ids = Int32Array.from(
    { length: t * topK },
    (_, i) => (random.below(1) + 5 * Math.floor(i / topK) + i) % experts,
  );
  const weights = random.floats(t * topK, 0, 1);
  const held: PackedWeight[] = [];
  const stack = async (out: number, into: number): Promise<{ weight: Weight; worth: () => ArrayLike<number> }> => {
    if (format === 'f32') {
      const weight = random.floats(experts * out * into, -0.5, 0.5);
      return { weight, worth: () => weight };
    }
    const { worth, ...parts } = int4Parts(random, experts * out * into, {
      rows: 1,
      in: into,
      out,
      group: 32,
      zeros: true,
    });
    const weight = await packInt4({ ...parts, shape: { experts, in: into } });
    held.push(weight);
    return { weight, worth };
  };
  const [gate, up, down] = [await stack(ff, dim), await stack(ff, dim), await stack(dim, ff)];
  const out = { y: new Float32Array(x.length) };
  const round = format === 'int4 fast' ? { round: reference.roundActivations } : {};
  const used = Math.min(experts, t * topK) / experts;
  const weightBytes = format === 'f32' ? 12 * experts * ff * dim : held.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    op: 'moe',
    label: `t ${t}, ${experts} experts top ${topK}, ${dim} x ${ff} ${format}`,
    // int8 activations: an f32 sum a hair away from f64 may round to the next integer
    tolerance: format === 'int4 fast' ? 1e-2 : 2e-5,
    bytes: bytesOf(x, out.y) + used * weightBytes,
    flops: 6 * t * topK * dim * ff,
    run: (options) =>
      moe({
        x,
        ids,
        weights,
        gate: gate.weight,
        up: up.weight,
        down: down.weight,
        exact: format !== 'int4 fast',
        shape: { experts, dim, ff, topK },
        out,
        ...options,
      }),
    expected: () => ({
      y: reference.moe(x, ids, weights, gate.worth(), up.worth(), down.worth(), {
        dim,
        ff,
        topK,
        activation: 'silu',
        ...round,
      }),
    }),
    dispose: () => {
      for (const weight of held) weight.dispose();
    },
  };
}

export function routerCase(
  axes: { t: number; experts: number; topK: number },
  rule: 'softmax_topk' | 'topk_softmax' | 'sigmoid' = 'softmax_topk',
): KernelCase {
  const { t, experts, topK } = axes;
  const random = new Random(17);
  const logits = random.floats(t * experts, -3, 3);
  const bias = rule === 'sigmoid' ? random.floats(experts, 0, 0.5) : undefined;
  const out = { ids: new Int32Array(t * topK), weights: new Float32Array(t * topK) };
  const options = { topK, rule, renormalize: rule !== 'topk_softmax', scale: 1.5 };
  return {
    op: 'router',
    label: `t ${t}, ${experts} experts top ${topK}, ${rule}`,
    tolerance: 2e-6,
    bytes: bytesOf(logits, out.ids, out.weights),
    flops: 8 * logits.length,
    run: (more) => router({ logits, bias, ...options, shape: { experts }, out, ...more }),
    expected: () => reference.router(logits, bias, { experts, ...options }),
  };
}
