/** `npm run bench:report [-- --results FOLDER --docs FOLDER]`: bench/results/*.json into docs/benchmarks.md and docs/benchmarks/*.svg. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/machine.js';
import { readResults, renderPage } from './lib/report.js';

const { values } = parseArgs({
  options: {
    results: { type: 'string', default: `${root}bench/results` },
    docs: { type: 'string', default: `${root}docs` },
  },
});
const names = readdirSync(values.results).toSorted();
const page = renderPage(readResults(names.map((name) => [name, readFileSync(join(values.results, name), 'utf8')])));
const folder = join(values.docs, 'benchmarks');
mkdirSync(folder, { recursive: true });
// a chart that no result draws any more would stay for ever
for (const file of readdirSync(folder)) if (file.endsWith('.svg') && !page.charts.has(file)) rmSync(join(folder, file));
for (const [file, svg] of page.charts) writeFileSync(join(folder, file), svg);
writeFileSync(join(values.docs, 'benchmarks.md'), page.markdown);
console.log(`${join(values.docs, 'benchmarks.md')}: ${page.charts.size} charts`);
