/** Sections on the kernels of the CPU and on the calls that reach them. */
import type { BenchRow } from '../../src/cli/bench.js';
import { bars, type Chart } from './report-chart.js';
import { number, percent, type Result, type Section, sectionsOf, table } from './report-result.js';
import { type Spread, show } from './statistics.js';

export function cpuSections(results: readonly Result[]): Section[] {
  return sectionsOf(results, [
    ['kernels', 'Kernels of the CPU', kernels],
    ['matmul-levels', 'Matrix products by level', levels],
    ['levels', 'Exact products and recurrences by level', levels],
    ['long-prompt', 'Long prompts', longPrompts],
    ['boundary', 'What a call costs', boundary],
  ]);
}

interface Level {
  readonly isa: string;
  readonly roofs: Readonly<Record<'before' | 'after', Readonly<Record<'read' | 'f32' | 'int8', number>>>>;
  readonly coreLatencyNs: number;
  readonly rows: readonly BenchRow[];
}

function kernels({ data }: Result, name: string): Section['parts'] {
  const levels = data.levels as readonly Level[];
  return [
    'Operands that fit a cache are read faster than memory.',
    ...(levels.length > 1 ? [byLevel(levels, name)] : []),
    ...levels.flatMap((level) => ofLevel(level, name)),
  ];
}

function byLevel(levels: readonly Level[], name: string): Chart {
  const first = new Map(levels[0]?.rows.map((row) => [`${row.op} ${row.label}`, row.medianUs]));
  return bars(
    `${name}-levels`,
    'Kernels by level',
    `times as fast as ${levels[0]?.isa}`,
    levels.slice(1).flatMap(({ isa, rows }) =>
      rows.map(({ op, label, medianUs }) => ({
        group: `${op} ${label}`,
        name: isa,
        value: (first.get(`${op} ${label}`) ?? NaN) / medianUs,
        isOurs: true,
      })),
    ),
    2,
  );
}

function ofLevel({ isa, roofs, coreLatencyNs, rows }: Level, name: string): Section['parts'] {
  const roof = (key: 'read' | 'f32' | 'int8'): string => number(Math.max(roofs.before[key], roofs.after[key]) / 1e9);
  const hasPeer = rows.some(({ peer }) => peer);
  const latency = coreLatencyNs > 0 ? `${number(coreLatencyNs, 0)} ns` : 'not measured';
  return [
    `Level ${isa}. Roofs of the same run: reads ${roof('read')} GB/s, f32 ${roof('f32')} GFLOP/s, int8 ${roof('int8')} GOP/s; core to core ${latency}.`,
    bars(
      `${name}-${isa}`,
      `Share of the nearest roof, ${isa}`,
      '% of the roof',
      rows.map(({ op, label, share }) => ({ name: `${op} ${label}`, value: 100 * share, isOurs: true })),
      0,
    ),
    table(
      [
        'kernel',
        'case',
        'µs',
        'p5–p95',
        'GFLOP/s',
        'GB/s',
        'of the roof',
        ...(hasPeer ? ['peer, µs', 'p5–p95', 'peer / ours', 'by CPU time'] : []),
      ],
      rows.map(({ op, label, medianUs, p5Us, p95Us, gflops, gbs, share, roof, cpuUs, peer }) => [
        op,
        label,
        number(medianUs),
        `${number(p5Us)}–${number(p95Us)}`,
        number(gflops),
        number(gbs),
        `${percent(share)} ${roof}`,
        ...(hasPeer ? peerCells(peer, medianUs, cpuUs) : []),
      ]),
      2,
    ),
  ];
}

const peerCells = (peer: BenchRow['peer'], oursUs: number, oursCpuUs: number | undefined): string[] =>
  peer
    ? [
        `${peer.name} ${number(peer.medianUs)}`,
        `${number(peer.p5Us)}–${number(peer.p95Us)}`,
        number(peer.medianUs / oursUs, 2),
        peer.cpuUs && oursCpuUs ? number(peer.cpuUs / oursCpuUs, 2) : '',
      ]
    : ['', '', '', ''];

interface LevelRow {
  readonly level: string;
  readonly dtype: string;
  readonly case: string;
  readonly best_us: number;
  readonly median_us: number;
  readonly gflops_best: number;
}

function levels({ data }: Result, name: string): Section['parts'] {
  const rows = (data.results as readonly LevelRow[]).map((row) => ({
    ...row,
    gflops: (row.gflops_best * row.best_us) / row.median_us,
  }));
  return [
    bars(
      name,
      'Rate by level',
      'GFLOP/s',
      rows.map(({ level, dtype, case: label, gflops, gflops_best }) => ({
        group: `${dtype} ${label}`,
        name: level,
        value: gflops,
        low: gflops,
        high: gflops_best,
        isOurs: true,
      })),
      0,
    ),
    table(
      ['case', 'level', 'median, µs', 'best, µs', 'GFLOP/s', 'at best'],
      rows.map(({ level, dtype, case: label, median_us, best_us, gflops, gflops_best }) => [
        `${dtype} ${label}`,
        level,
        number(median_us),
        number(best_us),
        number(gflops),
        number(gflops_best),
      ]),
      2,
    ),
  ];
}

interface LongPrompt {
  readonly model: string;
  readonly tokens: number;
  readonly firstMs: Spread;
  readonly allMs: Spread;
  readonly ratio: Spread;
  readonly residentMB: readonly number[];
}

/** The first tenth of each prompt is timed on its own. */
function longPrompts({ data }: Result): Section['parts'] {
  return [
    table(
      ['model', 'tokens', 'the first tenth, ms', 'all, ms', 'ratio', 'RSS after each tenth, MB'],
      (data.results as readonly LongPrompt[]).map(({ model, tokens, firstMs, allMs, ratio, residentMB }) => [
        model,
        `${tokens}`,
        show(firstMs, 0),
        show(allMs, 0),
        show(ratio, 2),
        residentMB.map((mb) => mb.toFixed(0)).join(' '),
      ]),
    ),
  ];
}

interface BoundaryRow {
  readonly name: string;
  readonly medianUs: number;
  readonly p75Us: number;
  readonly p99Us: number;
  readonly samples: number;
}

function boundary({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly BoundaryRow[];
  return [
    bars(
      name,
      'What a call costs',
      'µs',
      rows.map((row) => ({ name: row.name, value: row.medianUs, isOurs: true })),
    ),
    table(
      ['', 'median, µs', 'p75', 'p99', 'samples'],
      rows.map((row) => [row.name, number(row.medianUs), number(row.p75Us), number(row.p99Us), `${row.samples}`]),
    ),
  ];
}
