/** A section a family of CUDA kernels: its share of what the device copies or multiplies, beside the peers on the same sizes. */

import { type Bar, bars } from './report-chart.js';
import { machineOf, newest, number, percent, type Result, type Section, sourceOf, table } from './report-result.js';

interface Case {
  readonly kernel: string;
  readonly case: string;
  readonly ms?: number;
  readonly p5_ms?: number;
  readonly p95_ms?: number;
  readonly gb_s?: number;
  readonly tflop_s?: number;
  readonly share?: number;
  readonly ratio?: number;
}

const prefix = 'cuda-';
const peersKind = `${prefix}peers`;
/** Trials of tile sizes: for whoever tunes, not for readers. */
const trials = /-tune$/;

/** What a reader has to know of a peer to compare. */
const remarks: Readonly<Record<string, string>> = {
  'cublas bf16': '`cublas bf16` holds its weights in bf16: where ours are narrower, its share is of more bytes.',
  grouped_mm:
    '`grouped_mm` is one of the three products of the experts; ours is all three, activation and sum included.',
};

export function cudaSections(results: readonly Result[]): Section[] {
  const kinds = [...new Set(results.map(({ kind }) => kind))].toSorted();
  const families = kinds.filter((kind) => kind.startsWith(prefix) && kind !== peersKind && !trials.test(kind));
  return families.map((kind) => ({
    title: `CUDA: ${kind.slice(prefix.length).replaceAll('_', ' ')}`,
    parts: newest(results, kind).flatMap((result, i) => {
      return family(result, peersOf(result, results), `${kind}${i === 0 ? '' : `-${i + 1}`}`, results);
    }),
  }));
}

/** A run may time the peers of some families alone: the newest that has one of these cases. */
function peersOf(result: Result, results: readonly Result[]): Result | undefined {
  const cases = result.data.cases as readonly Case[];
  return results
    .filter((one) => one.kind === peersKind && machineOf(one) === machineOf(result))
    .toSorted((a, b) => (a.file < b.file ? 1 : -1))
    .find((one) =>
      (one.data.cases as readonly Case[]).some((peer) => cases.some((ours) => isSame(ours.case, peer.case))),
    );
}

function family(result: Result, beside: Result | undefined, name: string, all: readonly Result[]): Section['parts'] {
  const cases = result.data.cases as readonly Case[];
  const peerCases = (beside?.data.cases ?? []) as readonly Case[];
  const rows = cases.flatMap((one) => {
    const known = peerCases.filter((peer) => isSame(one.case, peer.case));
    return one.ms === undefined
      ? []
      : [{ ...one, ms: one.ms, peers: known.map((peer) => ({ ...peer, share: shareOf(peer, one) })) }];
  });
  const shown = new Set<string>();
  const chart = rows.flatMap(({ kernel, case: label, share, peers }): Bar[] => [
    bar(kernel, label, share, true),
    // a peer of several of our cases is drawn once
    ...peers.flatMap((peer) => {
      const key = `${peer.kernel} ${peer.case}`;
      if (shown.has(key)) return [];
      shown.add(key);
      return [bar(peer.kernel, peer.case, peer.share, false)];
    }),
  ]);
  const hasPeers = rows.some(({ peers }) => peers.length > 0);
  const besideLine = hasPeers && beside ? [`Peers: ${sourceOf(beside, commitOfRun(beside, all))}`] : [];
  const named = new Set(rows.flatMap(({ peers }) => peers.map((peer) => peer.kernel)));
  const ratios = cases.flatMap(({ case: label, ratio }) =>
    ratio === undefined ? [] : [`${label}: ${number(ratio, 2)}.`],
  );
  return [
    sourceOf(result),
    ...besideLine,
    ...Object.entries(remarks).flatMap(([peer, remark]) => (named.has(peer) ? [remark] : [])),
    bars(name, `Share of the roof: ${name}`, '% of the roof', chart, 0),
    table(
      [
        'kernel',
        'case',
        'µs',
        'p5–p95',
        'GB/s',
        'TFLOP/s',
        'of the roof',
        ...(hasPeers ? ['peers: µs, of the roof'] : []),
      ],
      rows.map(({ kernel, case: label, ms, p5_ms, p95_ms, gb_s, tflop_s, share, peers }) => [
        kernel,
        label,
        number(1e3 * ms, 2),
        p5_ms === undefined || p95_ms === undefined ? '' : `${number(1e3 * p5_ms, 2)}–${number(1e3 * p95_ms, 2)}`,
        gb_s === undefined ? '' : number(gb_s, 0),
        tflop_s === undefined ? '' : number(tflop_s, 0),
        percent(share),
        ...(hasPeers
          ? [
              peers
                .map((peer) => `${peer.kernel} ${number(1e3 * (peer.ms ?? NaN), 2)}, ${percent(peer.share)}`)
                .join('; '),
            ]
          : []),
      ]),
      2,
    ),
    ...ratios,
  ];
}

const bar = (kernel: string, label: string, share: number | undefined, isOurs: boolean): Bar => ({
  name: `${label} · ${kernel}`,
  value: share === undefined ? undefined : 100 * share,
  isOurs,
});

/** The same sizes: what ours says beyond the peer's are words (`dependent`, `contiguous`) or the group of a quantisation, not sizes. */
export function isSame(ours: string, peer: string): boolean {
  const rest = ours.split(' ');
  for (const word of peer.split(' ')) {
    const at = rest.indexOf(word);
    if (at < 0) return false;
    rest.splice(at, 1);
  }
  return rest.every((word) => /^([a-z]+|g\d+)$/.test(word));
}

/** Of the roof that ours is held against, which its rate and share tell. */
function shareOf(peer: Case, one: Case): number | undefined {
  const unit = peer.gb_s !== undefined ? 'gb_s' : 'tflop_s';
  const [rate, ours] = [peer[unit], one[unit]];
  return rate === undefined || ours === undefined || !one.share ? undefined : (rate * one.share) / ours;
}

/** One run of bench/cuda/run.sh stamps all it writes alike: a file without a commit is of the commit of its neighbours. */
const commitOfRun = ({ stamp }: Result, all: readonly Result[]): string | undefined =>
  all.find((one) => one.stamp === stamp && one.kind.startsWith(prefix) && one.data.commit)?.data.commit;
