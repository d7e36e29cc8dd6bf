import { type CrosscurrentError, mismatch } from '../errors.js';

/** A token that is found in the text itself, before any other rule. */
export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized?: boolean;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
}

export interface Component {
  type: string;
  [property: string]: unknown;
}

/** The parsed form of a tokenizer.json, as far as this folder reads it. */
export interface TokenizerJson {
  added_tokens: AddedToken[];
  normalizer: Component | null;
  pre_tokenizer: Component | null;
  post_processor: Component | null;
  decoder: Component | null;
  model: Component;
}

/** An id above this is a broken file: the table of all tokens is sized by the largest id. */
const maxId = 1 << 22;

/** Checks what the library takes for granted, so that a broken file is a typed error and not a stray TypeError. */
export function checkTokenizerJson(json: unknown, path: string): TokenizerJson {
  const invalid = (where: string, expected: string, got: unknown) =>
    mismatch('INVALID_FILE', `${path}: ${where}`, expected, describe(got));
  if (!isObject(json)) throw invalid('content', 'an object', json);
  const model = json.model;
  if (!isObject(model)) throw invalid('model', 'an object', model);
  if (!isObject(model.vocab) && !Array.isArray(model.vocab)) throw invalid('model.vocab', 'a vocabulary', model.vocab);
  if (isObject(model.vocab)) {
    for (const [token, id] of Object.entries(model.vocab)) {
      if (!isId(id)) throw invalid(`model.vocab[${JSON.stringify(token)}]`, `an id up to ${maxId}`, id);
    }
  }
  if (model.type === 'BPE' && !Array.isArray(model.merges)) throw invalid('model.merges', 'an array', model.merges);
  const added = json.added_tokens ?? [];
  if (!Array.isArray(added)) throw invalid('added_tokens', 'an array', added);
  for (const [i, token] of added.entries()) {
    if (!isObject(token) || typeof token.content !== 'string' || token.content === '' || !isId(token.id)) {
      throw invalid(`added_tokens[${i}]`, `content and an id up to ${maxId}`, token);
    }
  }
  const part = (name: string): Component | null => {
    const found = json[name] ?? null;
    if (found !== null && (!isObject(found) || typeof found.type !== 'string')) throw invalid(name, 'a type', found);
    checkPatterns(found, name, invalid);
    return found as Component | null;
  };
  return {
    added_tokens: added as AddedToken[],
    normalizer: part('normalizer'),
    pre_tokenizer: part('pre_tokenizer'),
    post_processor: part('post_processor'),
    decoder: part('decoder'),
    model: model as Component,
  };
}

/** The library prints a warning for a pattern it does not know; here it is an error. */
function checkPatterns(
  found: unknown,
  where: string,
  invalid: (where: string, expected: string, got: unknown) => CrosscurrentError,
): void {
  if (!isObject(found)) return;
  for (const [name, inner] of Object.entries(found)) {
    const isPattern = name === 'pattern' && inner !== null;
    if (isPattern && !(isObject(inner) && [inner.Regex, inner.String].some((text) => typeof text === 'string'))) {
      throw invalid(`${where}.pattern`, 'a Regex or a String', inner);
    }
    for (const child of Array.isArray(inner) ? inner : [inner]) checkPatterns(child, `${where}.${name}`, invalid);
  }
}

export function isObject(found: unknown): found is Record<string, unknown> {
  return typeof found === 'object' && found !== null && !Array.isArray(found);
}

function isId(found: unknown): found is number {
  return Number.isInteger(found) && (found as number) >= 0 && (found as number) <= maxId;
}

function describe(found: unknown): string {
  const text = JSON.stringify(found) ?? String(found);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
