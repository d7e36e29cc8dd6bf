/**
 * Speculation against plain decoding of the same prompts, in turns: how much faster, and how many drafts were right; and what a step of four nodes costs beside a step of one.
 *
 * Three kinds of prompts: chat; edits, whose output copies the input; and chat with every draft spoiled, so that nothing is accepted. The output is checked to be the plain one.
 *
 * `npm run bench -- speculation [--rounds 3] [--tokens 96] [--threads 2] [--prompts 6] [--models smollm2,tiny]`
 */
import { parseArgs } from 'node:util';
import {
  type Draft,
  draftModel,
  type GenerationStats,
  load,
  lookahead,
  type Model,
  promptLookup,
  type Speculation,
} from '../src/index.js';
import { describeMachine, modelFiles, presentModels, printMachine, root, saveResult } from './lib/machine.js';
import { chatPrompts, editPrompts } from './lib/prompts.js';
import { type Spread, show, spread } from './lib/statistics.js';

/** Answers shorter than this say more about their start than about decoding. */
const fewestTokens = 12;
const verifiedNodes = 4;

interface Run {
  readonly ids: readonly number[];
  readonly decodeMs: number;
  readonly cpuMs: number;
  readonly drafted: number;
  readonly accepted: number;
  readonly steps: number;
}

interface Figures {
  readonly kind: string;
  readonly drafter: string;
  /** Time of plain decoding / time with the drafter, over prompts and rounds. */
  readonly speed: Spread;
  /** The same of the processor time of the process. */
  readonly cpu: Spread;
  readonly acceptance: number;
  readonly tokensAStep: number;
  /** Runs whose output was not the plain one; 0. */
  readonly different: number;
}

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: 'string', default: '3' },
      tokens: { type: 'string', default: '96' },
      threads: { type: 'string', default: '2' },
      prompts: { type: 'string', default: '6' },
      models: { type: 'string', default: 'smollm2,tiny' },
    },
  });
  const [rounds, tokens, threads, count] = [values.rounds, values.tokens, values.threads, values.prompts].map(
    Number,
  ) as [number, number, number, number];
  const facts = await describeMachine(`npm run bench -- speculation ${args.join(' ')}`.trim());
  printMachine(facts);
  const results = [];
  for (const { name, path } of presentModels(values.models)) {
    console.log(`\n${name}, ${threads} threads; speed beside plain decoding: median (p5-p95)`);
    await using model = await load(path, { context: 1024, sequences: 4, threads });
    const drafters: Record<string, () => Speculation> = {
      'promptLookup()': () => promptLookup(),
      'lookahead()': () => lookahead(),
    };
    await using tiny =
      name === 'tiny' ? undefined : await load(`${root}${modelFiles.tiny}`, { context: 1024, threads });
    if (tiny) drafters['draftModel(tiny)'] = () => draftModel(tiny);
    const kinds = {
      chat: { prompts: chatPrompts.slice(0, count), change: (drafter: Speculation) => drafter },
      edit: { prompts: editPrompts.slice(0, count), change: (drafter: Speculation) => drafter },
      'nothing accepted': { prompts: chatPrompts.slice(0, count), change: spoiled },
    };
    const figures: Figures[] = [];
    for (const [kind, { prompts, change }] of Object.entries(kinds)) {
      const named = Object.entries(drafters).map(([drafter, make]) => [drafter, () => change(make())] as const);
      for (const figure of await compare(model, kind, prompts, named, { rounds, tokens })) {
        if (figure.speed.samples === 0) {
          console.log(`  ${kind}: no answer of ${fewestTokens} tokens`);
          break;
        }
        figures.push(figure);
        const { drafter, speed, cpu, acceptance, tokensAStep, different } = figure;
        console.log(
          `  ${kind.padEnd(18)}${drafter.padEnd(18)}${show(speed, 2).padEnd(20)}by CPU time ${show(cpu, 2)}; accepted ${(100 * acceptance).toFixed(0)} %, ${tokensAStep.toFixed(2)} tokens a step${different > 0 ? `; ${different} DIFFERENT` : ''}`,
        );
      }
    }
    const verify = await verifyCost(model, chatPrompts.slice(0, count), { rounds, tokens });
    console.log(
      `  a step of ${verifiedNodes} nodes / a plain step: ${show(verify.ratio, 2)}  (${show(verify.plainMs, 2)} ms plain)`,
    );
    results.push({ model: name, threads, figures, verify });
  }
  console.log(`\n${saveResult('speculation', facts, { rounds, tokens, results })}`);
}

/** Every prompt with plain decoding and each drafter in turn, in another order each round. */
async function compare(
  model: Model,
  kind: string,
  prompts: readonly string[],
  drafters: readonly (readonly [name: string, make: () => Speculation])[],
  { rounds, tokens }: { rounds: number; tokens: number },
): Promise<Figures[]> {
  const ways: (() => Speculation | undefined)[] = [() => undefined, ...drafters.map(([, make]) => make)];
  const pairs: { plain: Run; other: Run }[][] = drafters.map(() => []);
  for (const prompt of prompts) {
    await decode(model, prompt, tokens, undefined); // warms what the first run would pay for
    for (let round = 0; round < rounds; round++) {
      const runs: Run[] = [];
      for (let turn = 0; turn < ways.length; turn++) {
        const way = (turn + round) % ways.length;
        runs[way] = await decode(model, prompt, tokens, ways[way]?.());
      }
      const plain = runs[0] as Run;
      if (plain.ids.length < fewestTokens) continue;
      for (const [i, list] of pairs.entries()) list.push({ plain, other: runs[i + 1] as Run });
    }
  }
  return drafters.map(([drafter], i) => {
    const list = pairs[i] ?? [];
    const sum = (of: (run: Run) => number): number => list.reduce((n, { other }) => n + of(other), 0);
    return {
      kind,
      drafter,
      speed: spread(list.map(({ plain, other }) => plain.decodeMs / other.decodeMs)),
      cpu: spread(list.map(({ plain, other }) => plain.cpuMs / other.cpuMs)),
      acceptance:
        sum(({ accepted }) => accepted) /
        Math.max(
          1,
          sum(({ drafted }) => drafted),
        ),
      tokensAStep:
        sum(({ ids }) => ids.length - 1) /
        Math.max(
          1,
          sum(({ steps }) => steps),
        ),
      different: list.filter(({ plain, other }) => plain.ids.join() !== other.ids.join()).length,
    };
  });
}

/** Time of a step that checks three wrong drafts, beside one that has none. */
async function verifyCost(
  model: Model,
  prompts: readonly string[],
  { rounds, tokens }: { rounds: number; tokens: number },
): Promise<{ nodes: number; ratio: Spread; plainMs: Spread }> {
  const wrong: Speculation = () => ({
    length: verifiedNodes - 1,
    propose: ({ ids, limit }) => ({
      ids: new Array<number>(Math.min(limit, verifiedNodes - 1)).fill(ids[0] as number),
    }),
  });
  const [ratios, plainMs]: [number[], number[]] = [[], []];
  for (const prompt of prompts)
    for (let round = 0; round < rounds; round++) {
      const plain = await decode(model, prompt, tokens, undefined);
      const four = await decode(model, prompt, tokens, wrong);
      // a draft that was right makes a step say more than one token: such a run is no measure
      if (four.accepted > 0 || plain.ids.length < fewestTokens) continue;
      plainMs.push(plain.decodeMs / (plain.ids.length - 1));
      ratios.push(four.decodeMs / plain.decodeMs);
    }
  return { nodes: verifiedNodes, ratio: spread(ratios), plainMs: spread(plainMs) };
}

async function decode(
  model: Model,
  prompt: string,
  maxTokens: number,
  speculate: Speculation | undefined,
): Promise<Run> {
  const generation = model.generate(prompt, { maxTokens, ...(speculate ? { speculate } : {}) });
  const ids: number[] = [];
  let before: NodeJS.CpuUsage | undefined;
  for await (const piece of generation) {
    before ??= process.cpuUsage(); // the prompt has been read
    ids.push(...piece.ids);
  }
  const { user, system } = process.cpuUsage(before);
  const { decodeMs, speculation } = generation.stats as GenerationStats;
  const { drafted = 0, accepted = 0, steps = ids.length - 1 } = speculation ?? {};
  return { ids, decodeMs, cpuMs: (user + system) / 1000, drafted, accepted, steps };
}

/** The same drafts with every token replaced by its neighbour: the cost of drafting, and next to nothing accepted. */
function spoiled(speculation: Speculation): Speculation {
  return async (target) => {
    const drafter = await speculation(target);
    const spoil = (draft: Draft): Draft => ({ ...draft, ids: draft.ids.map((id) => (id + 1) % target.vocab) });
    return {
      ...(drafter.length === undefined ? {} : { length: drafter.length }),
      propose: async (request) => spoil(await drafter.propose(request)),
      observe: (outcome) => drafter.observe?.(outcome),
      dispose: () => drafter.dispose?.(),
    };
  };
}
