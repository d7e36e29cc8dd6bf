/** From results to a page. */
import { cpuSections } from './report-cpu.js';
import { cudaSections } from './report-cuda.js';
import { modelSections } from './report-model.js';
import type { Data, Result } from './report-result.js';

export interface Page {
  readonly markdown: string;
  /** Name of the file beside the page → its content. */
  readonly charts: ReadonlyMap<string, string>;
}

const fileName = /^(.+)-(\d{4}-\d\d-\d\dT\d{6})\.json$/;

/** The results among files, given as name and content; those of another name are not results. */
export function readResults(files: readonly (readonly [name: string, text: string])[]): Result[] {
  return files.flatMap(([file, text]) => {
    const [, kind, stamp] = fileName.exec(file) ?? [];
    return kind && stamp ? [{ file, kind, stamp, data: JSON.parse(text) as Data }] : [];
  });
}

/** The page and its charts. The same results give the same bytes. */
export function renderPage(results: readonly Result[]): Page {
  const sections = [...modelSections(results), ...cpuSections(results), ...cudaSections(results)];
  const charts = new Map<string, string>();
  const blocks = [
    '# Benchmarks',
    'Written by `npm run bench:report` from [bench/results](../bench/results): the newest result of each benchmark, machine and number of threads. Medians; in brackets the 5th and the 95th percentile. Peers on the CPU ran in turns with ours; ours is blue, a peer grey. What a result does not tell is left open, not guessed.',
  ];
  for (const { title, parts } of sections) {
    blocks.push(`## ${title}`);
    for (const part of parts) {
      if (typeof part === 'string') {
        blocks.push(part);
        continue;
      }
      charts.set(`${part.name}.svg`, part.svg);
      blocks.push(`![${part.title}](benchmarks/${part.name}.svg)`);
    }
  }
  if (sections.length === 0) blocks.push('No results yet.');
  return { markdown: `${blocks.join('\n\n')}\n`, charts };
}
