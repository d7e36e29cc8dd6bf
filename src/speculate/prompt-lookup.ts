import { mismatch } from '../errors.js';
import type { Branch, Draft, Drafter, Speculation } from '../generate/speculation.js';
import { SuffixAutomaton } from './suffix-automaton.js';

export interface PromptLookupOptions {
  /** Shortest run of tokens that counts as a match. Default: 2. */
  minMatch?: number;
}

/** How likely what followed is to follow again; and what followed elsewhere, where that does not. */
const repeats = 0.7;

/**
 * Drafts what followed the last time the sequence ended as it does now. Costs next to nothing, and pays where the output copies from
 * the prompt or from itself: summaries, edits, code.
 *
 * @see Saxena 2023, "Prompt lookup decoding"
 */
export function promptLookup(options: PromptLookupOptions = {}): Speculation {
  const minMatch = options.minMatch ?? 2;
  if (!Number.isInteger(minMatch) || minMatch < 1)
    throw mismatch('INVALID_ARGUMENT', 'minMatch', 'a positive integer', String(minMatch));
  return () => {
    const seen = new SuffixAutomaton();
    const see = (ids: readonly number[]): void => {
      for (let i = seen.tokens.length; i < ids.length; i++) seen.push(ids[i] as number);
    };
    const drafter: Drafter = {
      propose({ ids, limit }): Draft {
        see(ids);
        const { length, end } = seen.longestMatch();
        return { ids: length < minMatch ? [] : ids.slice(end, end + limit) };
      },
      branches({ ids, draft, nodes, width }): Branch[][] {
        see(ids);
        return nodes.map((node) =>
          seen
            .followers(pathTo(draft, node), minMatch, width)
            .map((id, rank) => ({ id, probability: repeats * (1 - repeats) ** rank })),
        );
      },
    };
    return drafter;
  };
}

/** Tokens of the draft from its first to `node`. */
function pathTo({ ids, parents }: Draft, node: number): number[] {
  const path: number[] = [];
  for (let at = node; at >= 0; at = parents ? (parents[at] as number) : at - 1) path.push(ids[at] as number);
  return path.reverse();
}
