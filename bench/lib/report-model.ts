/** Sections on whole models: generation, speculation, the event loop, memory, sequences, many requests. */
import { bars, line } from './report-chart.js';
import { number, percent, type Result, type Section, type Spread, sectionsOf, spread, table } from './report-result.js';

export function modelSections(results: readonly Result[]): Section[] {
  return sectionsOf(results, [
    ['generate', 'Generation', generation],
    ['speculation', 'Speculation', speculation],
    ['event-loop', 'Event loop', eventLoop],
    ['memory', 'Memory', memory],
    ['sequences', 'Sequences', sequences],
    ['soak', 'Many requests at once', soak],
  ]);
}

interface GenerateRow {
  readonly model: string;
  readonly threads: number;
  readonly load: Readonly<Record<string, { loadMs: number; sinceStartMs: number; peakRssMB: number }>>;
  readonly cases: readonly {
    readonly case: string;
    readonly rates: readonly { readonly runner: string; readonly wall: Spread; readonly cpu: Spread }[];
    readonly wallRatio?: Spread;
    readonly cpuRatio?: Spread;
  }[];
}

function generation({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly GenerateRow[];
  const rates = rows.flatMap(({ model, threads, cases }) =>
    cases.flatMap(({ case: label, rates, wallRatio, cpuRatio }) =>
      rates.map((rate, i) => ({ model, threads, label, ...rate, wallRatio, cpuRatio, isFirst: i === 0 })),
    ),
  );
  const ratio = (isFirst: boolean, value: Spread | undefined): string => (isFirst && value ? spread(value, 2) : '');
  return [
    // prompts are read an order of magnitude faster than answers are written: each case has a scale of its own
    ...[...new Set(rates.map(({ label }) => label))].map((label) =>
      bars(
        `${name}-${label.replaceAll(' ', '-')}`,
        `Tokens a second, ${label}`,
        `tokens/s, ${label}`,
        rates
          .filter((rate) => rate.label === label)
          .map(({ model, runner, wall }) => ({
            group: model,
            name: runner,
            value: wall.median,
            low: wall.p5,
            high: wall.p95,
            isOurs: runner === 'crosscurrent',
          })),
      ),
    ),
    'A round counts where no other process took a core from either; processor time counts them all.',
    table(
      ['model', 'case', 'runner', 'threads', 'tokens/s', 'rounds', 'tokens a CPU second', 'ours / peer', 'by CPU time'],
      rates.map(({ model, label, runner, threads, wall, cpu, wallRatio, cpuRatio, isFirst }) => [
        model,
        label,
        runner,
        `${threads}`,
        spread(wall),
        `${wall.samples} of ${cpu.samples}`,
        spread(cpu),
        ratio(isFirst, wallRatio),
        ratio(isFirst, cpuRatio),
      ]),
      3,
    ),
    table(
      ['model', 'runner', 'load, ms', 'ready after the start of the process, ms', 'peak RSS, MB'],
      rows.flatMap(({ model, load }) =>
        Object.entries(load).map(([runner, { loadMs, sinceStartMs, peakRssMB }]) => [
          model,
          runner,
          number(loadMs, 0),
          number(sinceStartMs, 0),
          number(peakRssMB, 0),
        ]),
      ),
      2,
    ),
  ];
}

interface SpeculationRow {
  readonly model: string;
  readonly threads: number;
  readonly figures: readonly {
    readonly kind: string;
    readonly drafter: string;
    readonly speed: Spread;
    readonly cpu: Spread;
    readonly acceptance: number;
    readonly tokensAStep: number;
    readonly different: number;
  }[];
  readonly verify: { readonly nodes: number; readonly ratio: Spread; readonly plainMs: Spread };
}

function speculation({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly SpeculationRow[];
  const figures = rows.flatMap(({ model, threads, figures }) => figures.map((one) => ({ model, threads, ...one })));
  return [
    bars(
      name,
      'Speed beside plain decoding',
      'times as fast as plain decoding',
      figures.map(({ model, kind, drafter, speed }) => ({
        group: `${model}, ${kind}`,
        name: drafter,
        value: speed.median,
        low: speed.p5,
        high: speed.p95,
        isOurs: true,
      })),
      2,
    ),
    table(
      [
        'model',
        'prompts',
        'drafter',
        'threads',
        'times as fast',
        'by CPU time',
        'accepted',
        'tokens a step',
        'outputs unlike plain',
      ],
      figures.map(({ model, kind, drafter, threads, speed, cpu, acceptance, tokensAStep, different }) => [
        model,
        kind,
        drafter,
        `${threads}`,
        spread(speed, 2),
        spread(cpu, 2),
        percent(acceptance),
        number(tokensAStep, 2),
        `${different}`,
      ]),
      3,
    ),
    ...rows.map(
      ({ model, verify }) =>
        `${model}: a step that checks ${verify.nodes} nodes takes ${spread(verify.ratio, 2)} times a plain one, which takes ${spread(verify.plainMs, 2)} ms.`,
    ),
  ];
}

function eventLoop({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly { model: string; phases: Readonly<Record<string, Spread>> }[];
  const phases = rows.flatMap(({ model, phases }) =>
    Object.entries(phases).map(([phase, gap]) => ({ model, phase, gap })),
  );
  return [
    'The longest time that the event loop was held in a run; `idle` is a loop that only waits, on the same machine in the same run.',
    bars(
      name,
      'Longest gap of the event loop',
      'ms',
      phases.map(({ model, phase, gap }) => ({
        group: model,
        name: phase,
        value: gap.median,
        low: gap.p5,
        high: gap.p95,
        isOurs: phase !== 'idle',
      })),
      2,
    ),
    table(
      ['model', 'phase', 'longest gap, ms', 'runs'],
      phases.map(({ model, phase, gap }) => [model, phase, spread(gap, 2), `${gap.samples}`]),
      2,
    ),
  ];
}

interface MemoryRow {
  readonly model: string;
  readonly nodeMB: number;
  readonly loadedMB: number;
  readonly peakMB: number;
  readonly planned: { readonly total: number };
  readonly series: readonly number[];
  readonly spreadPercent: number;
}

function memory({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly MemoryRow[];
  return [
    bars(
      name,
      'Resident memory',
      'MB',
      rows.flatMap(({ model, nodeMB, loadedMB, peakMB }) => [
        { group: model, name: 'Node.js alone', value: nodeMB, isOurs: false },
        { group: model, name: 'loaded', value: loadedMB, isOurs: true },
        { group: model, name: 'peak of 64 tokens', value: peakMB, isOurs: true },
      ]),
      0,
    ),
    table(
      [
        'model',
        'Node.js alone, MB',
        'loaded',
        'peak of 64 tokens',
        'planned at most',
        'after each tenth of many generations',
        '±',
      ],
      rows.map(({ model, nodeMB, loadedMB, peakMB, planned, series, spreadPercent }) => [
        model,
        number(nodeMB, 0),
        number(loadedMB, 0),
        number(peakMB, 0),
        number(planned.total / 1e6, 0),
        series.map((mb) => number(mb, 0)).join(' '),
        `${number(spreadPercent)} %`,
      ]),
    ),
  ];
}

interface SequenceRow {
  readonly model: string;
  readonly tokens: number;
  readonly fork: {
    readonly ms: Spread;
    readonly withCopyMs: Spread;
    readonly copiedBytes: number;
    readonly forks: number;
    readonly grownBytes: number;
  };
  readonly save: {
    readonly bytes: number;
    readonly saveMs: Spread;
    readonly restoreMs: Spread;
    readonly rewindMs: Spread;
    readonly gapMs: number;
  };
}

function sequences({ data }: Result, name: string): Section['parts'] {
  const rows = data.results as readonly SequenceRow[];
  const kB = (bytes: number): string => number(bytes / 1e3, 0);
  return [
    bars(
      name,
      'What a long sequence costs as a value',
      'ms',
      rows.flatMap(({ model, fork, save }) =>
        Object.entries({
          'fork, copied': fork.withCopyMs,
          save: save.saveMs,
          restore: save.restoreMs,
          rewind: save.rewindMs,
        }).map(([step, ms]) => ({
          group: model,
          name: step,
          value: ms.median,
          low: ms.p5,
          high: ms.p95,
          isOurs: true,
        })),
      ),
      2,
    ),
    table(
      [
        'model',
        'tokens',
        'fork, ms',
        'and copied, ms',
        'kB copied',
        'forks',
        'kB resident a fork',
        'save, ms',
        'restore, ms',
        'rewind, ms',
        'kB saved',
      ],
      rows.map(({ model, tokens, fork, save }) => [
        model,
        `${tokens}`,
        spread(fork.ms, 3),
        spread(fork.withCopyMs, 3),
        kB(fork.copiedBytes),
        `${fork.forks}`,
        kB(fork.grownBytes / fork.forks),
        spread(save.saveMs),
        spread(save.restoreMs),
        spread(save.rewindMs, 2),
        kB(save.bytes),
      ]),
    ),
  ];
}

interface SoakReport {
  readonly finished: number;
  readonly aborted: number;
  readonly tokens: number;
  readonly drafted: number;
  readonly accepted: number;
  readonly wrong: readonly string[];
  readonly errors: readonly string[];
  readonly interTokenMs: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly firstTokenMs: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly gapMs: number;
  readonly gapP99Ms: number;
  readonly rssMB: readonly number[];
  readonly rssSpreadPercent: number;
}

function soak({ data }: Result, name: string): Section['parts'] {
  const { minutes, concurrency, sequences, threads } = data as unknown as Record<string, number>;
  const report = data.report as SoakReport;
  const times = ({ p50, p99, max }: SoakReport['interTokenMs']): string =>
    `${number(p50)} / ${number(p99)} / ${number(max, 0)}`;
  return [
    `${minutes} minutes of ${concurrency} requests at once on ${sequences} places and ${threads} threads: random lengths, prompts, priorities, drafters and aborts. An answer is wrong that is not the one its request gives alone.`,
    line(name, 'Resident memory after warm-up', { x: 'tenth of the time', y: 'MB' }, report.rssMB),
    table(
      ['', ''],
      [
        ['answers', `${report.finished}`],
        ['aborted', `${report.aborted}`],
        ['tokens', `${report.tokens}`],
        ['drafts right', `${report.accepted} of ${report.drafted}`],
        ['wrong answers', `${report.wrong.length}`],
        ['errors', `${report.errors.length}`],
        ['between tokens, ms: median / p99 / most', times(report.interTokenMs)],
        ['to the first token, ms: median / p99 / most', times(report.firstTokenMs)],
        ['gap of the event loop, ms: p99 / most', `${number(report.gapP99Ms)} / ${number(report.gapMs)}`],
        ['RSS after warm-up', `±${number(report.rssSpreadPercent)} %`],
      ],
    ),
  ];
}
