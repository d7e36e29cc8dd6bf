import type { Value } from './values.js';
import {
  Bool,
  Int,
  isNumber,
  iterate,
  Keywords,
  List,
  Null,
  numberOf,
  repr,
  Str,
  TemplateFault,
  Tuple,
  text,
} from './values.js';

// Python's methods of `str`. Characters are code points, as in Python.

const space = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const leading = (set: string) => new RegExp(`^[${set}]+`, 'u');
const trailing = (set: string) => new RegExp(`[${set}]+$`, 'u');
const words = new RegExp(`[^${space}]+`, 'gu');

/** Python's `strip`: white space, or the characters of a set. */
export function strip(value: string, characters: string | undefined, sides: 'left' | 'right' | 'both'): string {
  if (characters === '') return value;
  const set = characters === undefined ? space : characters.replace(/[\\\]^-]/g, '\\$&');
  const start = sides === 'right' ? value : value.replace(leading(set), '');
  return sides === 'left' ? start : start.replace(trailing(set), '');
}

export const capitalize = (value: string): string => {
  const [first = '', ...rest] = value;
  return first.toUpperCase() + rest.join('').toLowerCase();
};

/** Python's `str.title`: a letter that follows a letter is small. */
export const title = (value: string): string => value.replace(/\p{L}+/gu, (word) => capitalize(word));

export function replaceText(value: string, old: string, by: string, count = -1): string {
  const parts = old === '' ? ['', ...value, ''] : value.split(old);
  const times = count < 0 ? parts.length - 1 : Math.min(count, parts.length - 1);
  let result = parts[0]!;
  for (let i = 1; i < parts.length; i++) result += (i <= times ? by : old) + parts[i];
  return result;
}

function split(value: string, separator: string | undefined, most: number): string[] {
  if (separator === '') throw new TemplateFault('ValueError', 'empty separator');
  if (separator !== undefined) {
    const parts = value.split(separator);
    return most < 0 || parts.length <= most ? parts : [...parts.slice(0, most), parts.slice(most).join(separator)];
  }
  const found: string[] = [];
  for (const match of value.matchAll(words)) {
    if (most >= 0 && found.length === most) {
      found.push(strip(value.slice(match.index), undefined, 'right'));
      break;
    }
    found.push(match[0]);
  }
  return found;
}

function splitRight(value: string, separator: string | undefined, most: number): string[] {
  const reversed = (from: string) => Array.from(from).reverse().join('');
  const parts = split(reversed(value), separator === undefined ? undefined : reversed(separator), most);
  return parts.map(reversed).reverse();
}

/** `%`-formatting: `%s %r %d %i %f %x %o %%` with flags, width and precision. */
export function percent(format: string, args: readonly Value[]): string {
  let next = 0;
  const result = format.replace(/%([-+0 #]*)(\d*)(?:\.(\d+))?([a-zA-Z%])/g, (_, flags, width, precision, kind) => {
    if (kind === '%') return '%';
    const value = args[next++];
    if (value === undefined) throw new TemplateFault('TypeError', 'not enough arguments for format string');
    let shown: string;
    if (kind === 's' || kind === 'r') {
      shown = kind === 's' ? text(value) : repr(value);
      if (precision !== undefined) shown = Array.from(shown).slice(0, Number(precision)).join('');
    } else {
      if (!isNumber(value)) throw new TemplateFault('TypeError', `%${kind} format: a number is required`);
      const number = numberOf(value);
      const size = Math.abs(number);
      if ('di'.includes(kind)) shown = String(Math.trunc(size));
      else if (kind === 'x') shown = size.toString(16);
      else if (kind === 'o') shown = size.toString(8);
      else if (kind === 'f') shown = size.toFixed(precision === undefined ? 6 : Number(precision));
      else throw new TemplateFault('ValueError', `unsupported format character '${kind}'`);
      const sign = number < 0 ? '-' : flags.includes('+') ? '+' : '';
      if (flags.includes('0') && !flags.includes('-')) shown = shown.padStart(Number(width) - sign.length, '0');
      shown = sign + shown;
    }
    return flags.includes('-') ? shown.padEnd(Number(width)) : shown.padStart(Number(width));
  });
  if (next < args.length) throw new TemplateFault('TypeError', 'not all arguments converted during string formatting');
  return result;
}

/** `str.format` with plain fields: `{}`, `{0}` and `{name}`. */
function braces(format: string, args: readonly Value[], named: ReadonlyMap<string, Value>): string {
  let next = 0;
  return format.replace(/\{\{|\}\}|\{([^{}]*)\}/g, (match, field) => {
    if (match === '{{' || match === '}}') return match[0]!;
    const value = field === '' ? args[next++] : /^\d+$/.test(field) ? args[Number(field)] : named.get(field);
    if (value === undefined) throw new TemplateFault('ValueError', `no argument for the field {${field}}`);
    return text(value);
  });
}

/** The positions of code points, for methods that count them. */
const pointIndex = (value: string, unit: number) => (unit < 0 ? -1 : Array.from(value.slice(0, unit)).length);

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends a line at these too
const lineEnd = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;

/** Python's `splitlines`: more line ends than JavaScript knows, and none after the last line. */
export function splitLines(value: string): string[] {
  const lines = value.split(lineEnd);
  return lines.at(-1) === '' ? lines.slice(0, -1) : lines;
}

type Method = (value: string, args: readonly Value[], named: ReadonlyMap<string, Value>) => unknown;

const optionalText = (value: Value | undefined): string | undefined =>
  value === undefined || value instanceof Null ? undefined : needText(value);
const needText = (value: Value | undefined): string => {
  if (value instanceof Str) return value.value;
  throw new TemplateFault('TypeError', `expected a string, got ${value ? repr(value) : 'nothing'}`);
};
const optionalInt = (value: Value | undefined, otherwise: number): number => {
  if (value === undefined) return otherwise;
  if (value instanceof Int) return value.value;
  throw new TemplateFault('TypeError', `expected an integer, got ${repr(value)}`);
};
const anyOf = (value: Value | undefined, test: (text: string) => boolean): boolean =>
  value instanceof Tuple ? value.value.some((item) => test(needText(item))) : test(needText(value));
const allMatch =
  (pattern: RegExp): Method =>
  (value) =>
    value !== '' && pattern.test(value);

const methods: Record<string, Method> = {
  upper: (value) => value.toUpperCase(),
  lower: (value) => value.toLowerCase(),
  title,
  capitalize,
  swapcase: (value) =>
    Array.from(value, (one) => (one === one.toUpperCase() ? one.toLowerCase() : one.toUpperCase())).join(''),
  strip: (value, [set]) => strip(value, optionalText(set), 'both'),
  lstrip: (value, [set]) => strip(value, optionalText(set), 'left'),
  rstrip: (value, [set]) => strip(value, optionalText(set), 'right'),
  startswith: (value, [prefix]) => anyOf(prefix, (one) => value.startsWith(one)),
  endswith: (value, [suffix]) => anyOf(suffix, (one) => value.endsWith(one)),
  removeprefix: (value, [prefix]) =>
    value.startsWith(needText(prefix)) ? value.slice(needText(prefix).length) : value,
  removesuffix: (value, [suffix]) =>
    needText(suffix) !== '' && value.endsWith(needText(suffix)) ? value.slice(0, -needText(suffix).length) : value,
  split: (value, [separator, most], named) =>
    split(value, optionalText(separator ?? named.get('sep')), optionalInt(most ?? named.get('maxsplit'), -1)),
  rsplit: (value, [separator, most], named) =>
    splitRight(value, optionalText(separator ?? named.get('sep')), optionalInt(most ?? named.get('maxsplit'), -1)),
  splitlines: splitLines,
  replace: (value, [old, by, count], named) =>
    replaceText(value, needText(old), needText(by), optionalInt(count ?? named.get('count'), -1)),
  find: (value, [part]) => pointIndex(value, value.indexOf(needText(part))),
  rfind: (value, [part]) => pointIndex(value, value.lastIndexOf(needText(part))),
  index: (value, [part]) => {
    const at = value.indexOf(needText(part));
    if (at < 0) throw new TemplateFault('ValueError', 'substring not found');
    return pointIndex(value, at);
  },
  count: (value, [part]) =>
    needText(part) === '' ? Array.from(value).length + 1 : value.split(needText(part)).length - 1,
  join: (value, [items]) => (items === undefined ? [] : iterate(items)).map(needText).join(value),
  format: (value, args, named) => braces(value, args, named),
  isdigit: allMatch(/^\p{Nd}+$/u),
  isdecimal: allMatch(/^\p{Nd}+$/u),
  isnumeric: allMatch(/^\p{N}+$/u),
  isalpha: allMatch(/^\p{L}+$/u),
  isalnum: allMatch(/^[\p{L}\p{N}]+$/u),
  isspace: allMatch(new RegExp(`^[${space}]+$`, 'u')),
  isupper: (value) => isUpper(value),
  islower: (value) => isLower(value),
};

export const isUpper = (value: string): boolean => value === value.toUpperCase() && value !== value.toLowerCase();
export const isLower = (value: string): boolean => value === value.toLowerCase() && value !== value.toUpperCase();

function wrapped(result: unknown): Value {
  if (typeof result === 'string') return new Str(result);
  if (typeof result === 'boolean') return new Bool(result);
  if (typeof result === 'number') return new Int(result);
  return new List((result as string[]).map((item) => new Str(item)));
}

/** The method of a text as something to call, or nothing. */
export function textMethod(value: string, name: string): ((args: Value[]) => Value) | undefined {
  const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
  return (
    method &&
    ((args) => {
      const last = args.at(-1);
      const isNamed = last instanceof Keywords;
      const named = isNamed ? (last.value as ReadonlyMap<string, Value>) : new Map<string, Value>();
      return wrapped(method(value, isNamed ? args.slice(0, -1) : args, named));
    })
  );
}
