import type { Roofs } from '../kernels/measure.js';

export function printRoofs({ read, f32, int8 }: Roofs, coreLatencyNs: number): void {
  const show = (rate: number): string => (rate / 1e9).toFixed(1);
  const latency = coreLatencyNs > 0 ? `; core to core ${coreLatencyNs.toFixed(0)} ns` : '';
  process.stdout.write(
    `roofs: read ${show(read)} GB/s, f32 ${show(f32)} GFLOP/s, int8 ${show(int8)} GOP/s${latency}\n`,
  );
}

export const bestRoofs = (before: Roofs, after: Roofs): Roofs => ({
  read: Math.max(before.read, after.read),
  f32: Math.max(before.f32, after.f32),
  int8: Math.max(before.int8, after.int8),
});
