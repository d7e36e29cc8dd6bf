/** Charts as SVG files that stand alone: black on white whatever the page around them. */
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

export interface Chart {
  /** Of the file, without `.svg`. */
  readonly name: string;
  readonly title: string;
  readonly svg: string;
}

export interface Bar {
  /** Bars of a group stand together; without groups each name is there once. */
  readonly group?: string;
  readonly name: string;
  /** Null where nothing could be measured: no bar. */
  readonly value: number | null | undefined;
  readonly low?: number | null;
  readonly high?: number | null;
  /** Peers and what is there for comparison are grey. */
  readonly isOurs: boolean;
}

const [ours, other] = ['#1f6f8b', '#a9b4bd'];
const width = 860;
const barHeight = 16;
const axisHeight = 56;
/** Of a letter, about: nothing here measures text. */
const letterWidth = 6.2;

/** Horizontal bars with their range and value, on a line from zero. */
export function bars(name: string, title: string, unit: string, rows: readonly Bar[], digits = 1): Chart {
  const shown = rows.flatMap((row) => (typeof row.value === 'number' ? [{ ...row, value: row.value }] : []));
  const groups = [...new Set(shown.flatMap(({ group }) => group ?? []))];
  const names = [...new Set(shown.map((row) => row.name))];
  const ranged = shown.filter(({ low, high }) => typeof low === 'number' && typeof high === 'number');
  const endOf = ({ value, high }: { value: number; high?: number | null }): number => Math.max(value, high ?? value);
  const most = Math.max(1e-9, ...shown.map(endOf));
  const room = (labels: readonly string[]): number =>
    Math.ceil(letterWidth * Math.max(0, ...labels.map((label) => label.length))) + 12;
  const facet = groups.length > 0 ? { fy: 'group' } : {};
  const rowsOfAll = groups.length > 0 ? groups.length * (names.length + 1) : names.length;
  return {
    name,
    title,
    svg: draw({
      height: axisHeight + barHeight * rowsOfAll,
      marginLeft: room(names),
      marginRight: groups.length > 0 ? room(groups) + 12 : 20,
      x: { domain: [0, 1.12 * most], grid: true, label: unit },
      y: { domain: names, label: null, tickSize: 0 },
      ...(groups.length > 0 ? { fy: { domain: groups, label: null, padding: 0.12 } } : {}),
      marks: [
        Plot.barX(shown, { ...facet, y: 'name', x: 'value', fill: (row: Bar) => (row.isOurs ? ours : other) }),
        Plot.ruleY(ranged, { ...facet, y: 'name', x1: 'low', x2: 'high' }),
        Plot.text(shown, {
          ...facet,
          y: 'name',
          x: endOf,
          text: (row: { value: number }) => row.value.toFixed(digits),
          textAnchor: 'start',
          dx: 4,
        }),
        Plot.ruleX([0]),
      ],
    }),
  };
}

/** Values one after the other. */
export function line(name: string, title: string, axes: { x: string; y: string }, values: readonly number[]): Chart {
  const points = values.map((value, i) => ({ at: i + 1, value }));
  return {
    name,
    title,
    svg: draw({
      height: 200,
      marginLeft: 56,
      x: { label: axes.x, ticks: points.length, tickFormat: 'd' },
      y: { label: axes.y, grid: true, zero: true },
      marks: [Plot.lineY(points, { x: 'at', y: 'value', stroke: ours }), Plot.ruleY([0])],
    }),
  };
}

function draw(options: Plot.PlotOptions): string {
  const { document } = parseHTML('<html><body></body></html>');
  const svg = Plot.plot({
    // both are types of the DOM, which a program for Node.js does without
    document: document as never,
    width,
    style: { background: 'white', color: 'black' } as never,
    ...options,
  });
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  // rules for a chart inside a page, which not every reader of SVG understands
  svg.querySelector('style')?.remove();
  // a hundredth of a pixel: files half as large, and no last bit that another processor rounds otherwise
  return `${svg.outerHTML.replace(/\d+\.\d{3,}/g, (digits: string) => `${Number(Number(digits).toFixed(2))}`)}\n`;
}
