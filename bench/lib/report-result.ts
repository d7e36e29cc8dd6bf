/** Results, which of them count, where a figure comes from, and how figures are written. */
import type { Chart } from './report-chart.js';

/** What a file of bench/results holds, under its name. */
export interface Result {
  readonly file: string;
  /** `generate` of `generate-2026-11-25T115154.json`. */
  readonly kind: string;
  /** When it was measured, as the name of the file says. */
  readonly stamp: string;
  readonly data: Data;
}

/** Facts that results share; the rest is the kind's own. Those of the CUDA drivers have them at the top. */
export interface Data {
  readonly machine?: Facts & {
    readonly cores?: number;
    readonly memoryGiB?: number;
    readonly readGBs?: number;
    readonly foreignLoad?: number;
    readonly note?: string;
  };
  readonly device?: string;
  readonly date?: string;
  readonly commit?: string;
  readonly command?: string;
  readonly [key: string]: unknown;
}

interface Facts {
  readonly date?: string;
  readonly commit?: string;
  readonly command?: string;
  readonly cpu?: string;
}

export interface Section {
  readonly title: string;
  /** Paragraphs, tables and charts, in order. */
  readonly parts: readonly (string | Chart)[];
}

/** The newest result of each machine and number of threads, in an order that does not depend on that of the files. */
export function newest(results: readonly Result[], kind: string): Result[] {
  const found = new Map<string, Result>();
  const sorted = results.toSorted((a, b) => (a.file < b.file ? -1 : 1));
  for (const result of sorted.filter((one) => one.kind === kind)) {
    const { results: rows, threads } = result.data as { results?: readonly { threads?: number }[]; threads?: number };
    const many = threads ?? rows?.[0]?.threads;
    found.set(`${machineOf(result)}|${many ?? ''}`, result);
  }
  return [...found.entries()].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, result]) => result);
}

export function machineOf({ data }: Result): string {
  const { machine, device } = data;
  if (!machine) return device ?? 'machine not recorded';
  const { cpu = 'unknown', cores, memoryGiB } = machine;
  return [cpu, cores && `${cores} cores`, memoryGiB && `${memoryGiB} GiB`].filter(Boolean).join(', ');
}

/** Where figures come from: machine, what the machine did meanwhile, date, commit, command, file. */
export function sourceOf(result: Result, commitElsewhere?: string): string {
  const { file, data } = result;
  const facts: Facts = data.machine ?? data;
  const { readGBs, foreignLoad, note } = data.machine ?? {};
  const { copy_gb_s, read_gb_s, mma_tflop_s } = data as Record<string, number | undefined>;
  const commit = facts.commit ?? commitElsewhere;
  const parts = [
    machineOf(result),
    readGBs && `one thread reads ${number(readGBs)} GB/s`,
    foreignLoad !== undefined && `other processes had ${percent(foreignLoad)} of the cores`,
    copy_gb_s && `copies ${number(copy_gb_s, 0)} GB/s`,
    read_gb_s && `reads ${number(read_gb_s, 0)} GB/s`,
    mma_tflop_s && `multiplies ${number(mma_tflop_s, 0)} TFLOP/s`,
    note ?? data.note,
    facts.date ? facts.date.slice(0, 16).replace('T', ' ') : 'date not recorded',
    commit ? `commit ${commit}` : 'commit not recorded',
    facts.command ? `\`${facts.command}\`` : 'command not recorded',
    `\`${file}\``,
  ];
  return `*${parts.filter(Boolean).join(' · ')}*`;
}

/** JSON has null where nothing could be measured. */
export const number = (value: number | null | undefined, digits = 1): string =>
  value === null || value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits);

export const percent = (share: number | null | undefined, digits = 0): string =>
  share === null || share === undefined ? '–' : `${number(100 * share, digits)} %`;

export interface Spread {
  readonly median: number | null;
  readonly p5: number | null;
  readonly p95: number | null;
  readonly samples: number;
}

/** `12.3 (11.8–12.6)` */
export const spread = ({ median, p5, p95 }: Spread, digits = 1): string =>
  median === null ? '–' : `${number(median, digits)} (${number(p5, digits)}–${number(p95, digits)})`;

/** A table of Markdown; columns but the first `words` are numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], words = 1): string {
  const row = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  const rule = head.map((_, column) => (column < words ? '---' : '---:'));
  return [row(head), row(rule), ...rows.map(row)].join('\n');
}

/** The kind of a result, the title of its section, and what a result of it says; charts are named after `name`. */
export type Kind = readonly [kind: string, title: string, render: (result: Result, name: string) => Section['parts']];

/** A section a kind that has results; what is said of a benchmark is said once, whatever the machines. */
export function sectionsOf(results: readonly Result[], kinds: readonly Kind[]): Section[] {
  return kinds.flatMap(([kind, title, render]) => {
    const parts = newest(results, kind).flatMap((result, i) => [
      sourceOf(result),
      ...render(result, `${kind}${i === 0 ? '' : `-${i + 1}`}`),
    ]);
    return parts.length === 0 ? [] : [{ title, parts: parts.filter((part, i) => parts.indexOf(part) === i) }];
  });
}
