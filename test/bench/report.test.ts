// The page of benchmarks, on small results made up here.
import { describe, expect, it } from 'vitest';
import { readResults, renderPage } from '../../bench/lib/report.js';
import { bars } from '../../bench/lib/report-chart.js';
import { isSame } from '../../bench/lib/report-cuda.js';
import { newest, sourceOf, table } from '../../bench/lib/report-result.js';

const spread = (median: number) => ({ median, p5: median - 1, p95: median + 1, samples: 5 });
const nothing = { median: null, p5: null, p95: null, samples: 0 };
const machine = {
  date: '2026-01-02T03:04:05.000Z',
  commit: 'abc1234',
  command: 'npm run bench -- generate',
  cpu: 'Some CPU',
  cores: 2,
  memoryGiB: 8,
  foreignLoad: 0.25,
  readGBs: 12.5,
};

function generate(threads: number, ours: number, cpu = machine.cpu) {
  const load = { crosscurrent: { loadMs: 100, sinceStartMs: 200, peakRssMB: 300 } };
  const cases = [
    {
      case: 'decode after 32',
      rates: [
        { runner: 'crosscurrent', wall: spread(ours), cpu: spread(ours) },
        { runner: 'node-llama-cpp', wall: spread(50), cpu: spread(50) },
      ],
      wallRatio: spread(2),
      cpuRatio: spread(3),
    },
    { case: 'prefill 512', rates: [{ runner: 'crosscurrent', wall: nothing, cpu: spread(9) }] },
  ];
  return { machine: { ...machine, cpu }, results: [{ model: 'a|b', threads, load, cases }] };
}

const roofs = { before: { read: 1e10, f32: 5e10, int8: 0 }, after: { read: 2e10, f32: 4e10, int8: 0 } };
const level = (isa: string, medianUs: number, peer?: object) => ({
  isa,
  roofs,
  coreLatencyNs: 45,
  rows: [
    {
      op: 'add',
      label: 'rows 1',
      medianUs,
      p5Us: 1,
      p95Us: 9,
      samples: 5,
      gflops: 1,
      gbs: 2,
      share: 0.1,
      roof: 'read',
      peer,
    },
  ],
});

const device = { device: 'Some GPU', copy_gb_s: 1000, read_gb_s: 1100, mma_tflop_s: 100 };
const files: [string, unknown][] = [
  ['generate-2026-01-01T000000.json', generate(1, 11)],
  ['generate-2026-01-02T000000.json', generate(1, 22)],
  ['generate-2026-01-01T000001.json', generate(2, 33)],
  ['generate-2025-01-01T000000.json', generate(1, 44, 'Another CPU')],
  [
    'cuda-attention_decode-2026-01-03T000000.json',
    {
      ...device,
      date: '2026-01-03T00:00:00',
      commit: 'def5678',
      command: 'bench/cuda/run.sh',
      cases: [
        { kernel: 'ours', case: 'd128 B1 contiguous', ms: 0.01, p5_ms: 0.009, p95_ms: 0.011, gb_s: 500, share: 0.5 },
        { kernel: 'ours', case: 'd128 B1 page 16', ms: 0.02, gb_s: 250, share: 0.25 },
        { kernel: 'ours', case: 'time(2) / time(1)', ratio: 1.99 },
      ],
    },
  ],
  [
    'cuda-peers-2026-01-03T000000.json',
    {
      device: 'Some GPU',
      date: '2026-01-03T00:00:01',
      cases: [{ kernel: 'theirs', case: 'd128 B1', ms: 0.02, gb_s: 250 }],
    },
  ],
  [
    'cuda-peers-2026-01-04T000000.json',
    { device: 'Some GPU', date: '2026-01-04', cases: [{ kernel: 'theirs', case: 'd256 B1', ms: 1, gb_s: 2 }] },
  ],
  [
    'cuda-int4-tune-2026-01-03T000000.json',
    { ...device, cases: [{ kernel: 'ours', case: 'a trial', ms: 1, gb_s: 1 }] },
  ],
  [
    'kernels-2026-01-01T000000.json',
    {
      machine,
      levels: [level('v2', 8), level('avx2', 2, { name: 'theirs', medianUs: 3, p5Us: 2, p95Us: 4, samples: 5 })],
    },
  ],
  ['notes.json', { what: 'not a result' }],
];
const texts = files.map(([name, data]) => [name, JSON.stringify(data)] as const);

describe('the page', () => {
  it('has the same bytes for the same results, in whatever order they come', () => {
    const [one, two] = [renderPage(readResults(texts)), renderPage(readResults(texts.toReversed()))];
    expect(two.markdown).toBe(one.markdown);
    expect([...two.charts].sort()).toEqual([...one.charts].sort());
    expect([...one.charts.keys()]).toEqual([
      'generate-decode-after-32.svg',
      'generate-prefill-512.svg',
      'generate-2-decode-after-32.svg',
      'generate-2-prefill-512.svg',
      'generate-3-decode-after-32.svg',
      'generate-3-prefill-512.svg',
      'kernels-levels.svg',
      'kernels-v2.svg',
      'kernels-avx2.svg',
      'cuda-attention_decode.svg',
    ]);
  });

  it('takes the newest of each machine and number of threads', () => {
    const found = newest(readResults(texts), 'generate').map(({ file }) => file);
    expect(found).toEqual([
      'generate-2025-01-01T000000.json',
      'generate-2026-01-02T000000.json',
      'generate-2026-01-01T000001.json',
    ]);
    const { markdown } = renderPage(readResults(texts));
    expect(markdown).toContain('22.0 (21.0–23.0)');
    expect(markdown).not.toContain('11.0 (10.0–12.0)');
    expect(markdown).not.toContain('a trial');
  });

  it('says of every figure where it comes from, and what was not recorded', () => {
    const results = readResults(texts);
    const source = sourceOf(newest(results, 'generate')[1]!);
    for (const part of [
      'Some CPU, 2 cores, 8 GiB',
      '25 %',
      '2026-01-02 03:04',
      'commit abc1234',
      '`npm run bench -- generate`',
    ])
      expect(source).toContain(part);
    expect(sourceOf(results.find(({ kind }) => kind === 'cuda-peers')!)).toContain('commit not recorded');
    // the driver of the same run has it
    expect(renderPage(results).markdown).toMatch(/^Peers: .*commit def5678 · command not recorded/m);
  });

  it('holds kernels against roofs, peers and other levels', () => {
    const { markdown, charts } = renderPage(readResults(texts));
    expect(markdown).toContain(
      'Level v2. Roofs of the same run: reads 20.0 GB/s, f32 50.0 GFLOP/s, int8 0.0 GOP/s; core to core 45 ns.',
    );
    expect(markdown).toContain('| add | rows 1 | 8.0 | 1.0–9.0 | 1.0 | 2.0 | 10 % read |');
    expect(markdown).toContain(
      '| add | rows 1 | 2.0 | 1.0–9.0 | 1.0 | 2.0 | 10 % read | theirs 3.0 | 2.0–4.0 | 1.50 |',
    );
    expect(charts.get('kernels-levels.svg')).toContain('>4.00<');
  });

  it('leaves open what could not be measured', () => {
    const { markdown } = renderPage(readResults(texts));
    expect(markdown).toContain('| a\\|b | prefill 512 | crosscurrent | 1 | – | 0 of 5 | 9.0 (8.0–10.0) |  |  |');
  });

  it('holds peers against the roof that ours is held against', () => {
    const { markdown, charts } = renderPage(readResults(texts));
    expect(markdown).toContain(
      '| ours | d128 B1 contiguous | 10.00 | 9.00–11.00 | 500 |  | 50 % | theirs 20.00, 25 % |',
    );
    expect(markdown).toContain('| ours | d128 B1 page 16 | 20.00 |  | 250 |  | 25 % |  |');
    expect(markdown).toContain('time(2) / time(1): 1.99.');
    expect(charts.get('cuda-attention_decode.svg')).toContain('d128 B1 · theirs');
  });

  it('is a page without results', () => {
    expect(renderPage([])).toEqual({ markdown: expect.stringContaining('No results yet.'), charts: new Map() });
  });
});

it('a peer of the same sizes: only words and groups may differ', () => {
  expect(isSame('4096x4096 g128 m=1 dependent', '4096x4096 m=1')).toBe(true);
  expect(isSame('4096x4096 g128 m=16', '4096x4096 m=1')).toBe(false);
  expect(isSame('H80 P64 B1 L2048', 'H80 P64 B1')).toBe(false);
  expect(isSame('d128 B1', 'd128 B1 page')).toBe(false);
});

describe('a chart', () => {
  it('stands alone, and escapes what it is told', () => {
    const { svg } = bars('name', 'title', '<unit> & more', [{ name: 'a & b', value: 1.23456, isOurs: true }]);
    expect(svg).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    expect(svg).toContain('a &amp; b');
    expect(svg).toContain('&lt;unit&gt; &amp; more');
    expect(svg).not.toContain('<style');
    expect(svg).not.toMatch(/\d\.\d{3}/);
    expect(svg.match(/<rect/g)).toHaveLength(1);
  });

  it('draws no bar where there is no value', () => {
    const row = { group: 'g', isOurs: true };
    const { svg } = bars('n', 't', 'u', [
      { ...row, name: 'a', value: null },
      { ...row, name: 'b', value: 2, low: 1, high: 3 },
    ]);
    expect(svg.match(/<rect/g)).toHaveLength(1);
  });
});

it('a table escapes its cells', () => {
  expect(table(['a', 'b'], [['x|y', '1']])).toBe('| a | b |\n| --- | ---: |\n| x\\|y | 1 |');
});
