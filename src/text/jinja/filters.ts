import { predicate } from './predicates.js';
import { capitalize, percent, replaceText, splitLines, strip, title } from './strings.js';
import {
  compare,
  Dict,
  equals,
  Float,
  Int,
  isNumber,
  isTrue,
  iterate,
  List,
  Namespace,
  Null,
  numberOf,
  Str,
  TemplateFault,
  type Text,
  Tuple,
  text,
  toJson,
  typeName,
  Undefined,
  undefinedValue,
  type Value,
} from './values.js';

/** The arguments of a filter: by place or by name, as Python takes them. */
export class Arguments {
  constructor(
    readonly placed: readonly Value[],
    readonly named: ReadonlyMap<string, Value>,
  ) {}

  get(place: number, name: string): Value | undefined {
    return this.placed[place] ?? this.named.get(name);
  }

  flag(place: number, name: string, otherwise = false): boolean {
    const found = this.get(place, name);
    return found === undefined ? otherwise : isTrue(found);
  }

  int(place: number, name: string, otherwise: number): number {
    const found = this.get(place, name);
    if (found === undefined || found instanceof Null) return otherwise;
    if (!isNumber(found)) throw new TemplateFault('TypeError', `${name}: an integer is required`);
    return Math.trunc(numberOf(found));
  }

  text(place: number, name: string): string | undefined {
    const found = this.get(place, name);
    return found === undefined || found instanceof Null ? undefined : text(found);
  }
}

/** What a filter may ask of the interpreter: other filters (for `map`) and attributes. */
export interface Host {
  filter(name: string, value: Value, args: Arguments): Value;
  attribute(value: Value, name: string): Value;
}

type Filter = (value: Value, args: Arguments, host: Host) => Value;

const str = (value: string): Value => new Str(value);
const list = (items: Value[]): Value => new List(items);

/** `a.b.0`: the path of an attribute as `map`, `sort` and others take it; a number is an index. */
function path(host: Host, value: Value, attribute: Value): Value {
  if (attribute instanceof Int) {
    return (value instanceof List ? value.value.at(attribute.value) : undefined) ?? undefinedValue();
  }
  let found = value;
  for (const part of text(attribute).split('.')) {
    const index = /^\d+$/.test(part) && found instanceof List;
    found = index
      ? ((found as InstanceType<typeof List>).value[Number(part)] ?? undefinedValue())
      : host.attribute(found, part);
  }
  return found;
}

function keyOf(host: Host, attribute: Value | undefined, isCaseSensitive: boolean): (value: Value) => Value {
  return (value) => {
    const found = attribute === undefined || attribute instanceof Null ? value : path(host, value, attribute);
    return found instanceof Str && !isCaseSensitive ? str(found.value.toLowerCase()) : found;
  };
}

function length(value: Value): Value {
  if (value instanceof Undefined) return new Int(0);
  if (value instanceof Dict) return new Int(value.value.size);
  if (value instanceof List || value instanceof Str) return new Int(iterate(value).length);
  throw new TemplateFault('TypeError', `object of type '${typeName(value)}' has no len()`);
}

function sorted(value: Value, args: Arguments, host: Host): Value {
  const key = keyOf(host, args.get(2, 'attribute'), args.flag(1, 'case_sensitive'));
  const sign = args.flag(0, 'reverse') ? -1 : 1;
  return list([...iterate(value)].sort((a, b) => sign * compare(key(a), key(b))));
}

function dictsort(value: Value, args: Arguments, host: Host): Value {
  const place = args.text(1, 'by') === 'value' ? 1 : 0;
  const key = keyOf(host, undefined, args.flag(0, 'case_sensitive'));
  const sign = args.flag(2, 'reverse') ? -1 : 1;
  return list(items(value).sort((a, b) => sign * compare(key(a.value[place]!), key(b.value[place]!))));
}

function items(value: Value): InstanceType<typeof Tuple>[] {
  if (value instanceof Undefined) return [];
  if (!(value instanceof Dict)) throw new TemplateFault('TypeError', 'Can only get item pairs from a mapping.');
  return Array.from(value.value, ([key, item]) => new Tuple([str(key), item]));
}

function unique(value: Value, args: Arguments, host: Host): Value {
  const key = keyOf(host, args.get(1, 'attribute'), args.flag(0, 'case_sensitive'));
  const seen: Value[] = [];
  return list(
    iterate(value).filter((item) => {
      const found = key(item);
      if (seen.some((one) => equals(one, found))) return false;
      seen.push(found);
      return true;
    }),
  );
}

function map(value: Value, args: Arguments, host: Host): Value {
  const attribute = args.named.get('attribute');
  if (attribute !== undefined) {
    const otherwise = args.named.get('default');
    return list(
      iterate(value).map((item) => {
        const found = path(host, item, attribute);
        return found instanceof Undefined && otherwise !== undefined ? otherwise : found;
      }),
    );
  }
  const [name, ...rest] = args.placed;
  if (name === undefined) throw new TemplateFault('TypeError', 'map requires a filter argument');
  return list(iterate(value).map((item) => host.filter(text(name), item, new Arguments(rest, args.named))));
}

/** `select`, `reject` and, by an attribute, `selectattr` and `rejectattr`. */
function choose(keeps: boolean, byAttribute: boolean): Filter {
  return (value, args, host) => {
    const [attribute, rest] = byAttribute ? [args.placed[0], args.placed.slice(1)] : [undefined, args.placed];
    if (byAttribute && attribute === undefined) throw new TemplateFault('TypeError', 'missing an attribute name');
    const test = rest[0] === undefined ? isTrue : predicate(text(rest[0]));
    const kept = iterate(value).filter((item) => {
      const found = attribute === undefined ? item : path(host, item, attribute);
      return test(found, rest[1]) === keeps;
    });
    return list(kept);
  };
}

function join(value: Value, args: Arguments, host: Host): Value {
  const attribute = args.get(1, 'attribute');
  const found = iterate(value).map((item) => text(attribute === undefined ? item : path(host, item, attribute)));
  return str(found.join(args.text(0, 'd') ?? ''));
}

function json(value: Value, args: Arguments): Value {
  const width = args.get(1, 'indent');
  const indent =
    width === undefined || width instanceof Null
      ? undefined
      : width instanceof Str
        ? width.value
        : ' '.repeat(numberOf(width));
  const given = args.get(2, 'separators');
  const separators = given instanceof List ? (given.value.map(text) as [string, string]) : undefined;
  return str(
    toJson(value, {
      indent,
      separators: separators ?? [indent === undefined ? ', ' : ',', ': '],
      isAscii: args.flag(0, 'ensure_ascii'),
      sortsKeys: args.flag(3, 'sort_keys'),
    }),
  );
}

function toInt(value: Value, args: Arguments): Value {
  const otherwise = args.get(0, 'default') ?? new Int(0);
  if (isNumber(value)) return new Int(Math.trunc(numberOf(value)));
  if (!(value instanceof Str)) return otherwise;
  const base = args.int(1, 'base', 10);
  const digits = strip(value.value, undefined, 'both').replace(base === 16 ? /^0x/i : /(?!)/, '');
  const isWhole = base === 10 ? /^[-+]?\d+$/.test(digits) : !Number.isNaN(Number.parseInt(digits, base));
  if (isWhole) return new Int(Number.parseInt(digits, base));
  const number = Number(digits);
  return digits === '' || Number.isNaN(number) ? otherwise : new Int(Math.trunc(number));
}

function toFloat(value: Value, args: Arguments): Value {
  if (isNumber(value)) return new Float(numberOf(value));
  const number = value instanceof Str && value.value.trim() !== '' ? Number(value.value) : Number.NaN;
  return Number.isNaN(number) ? (args.get(0, 'default') ?? new Float(0)) : new Float(number);
}

function round(value: Value, args: Arguments): Value {
  if (!isNumber(value)) throw new TemplateFault('TypeError', `type ${typeName(value)} doesn't define round`);
  const scale = 10 ** args.int(0, 'precision', 0);
  const scaled = numberOf(value) * scale;
  const method = args.text(1, 'method') ?? 'common';
  if (method === 'ceil') return new Float(Math.ceil(scaled) / scale);
  if (method === 'floor') return new Float(Math.floor(scaled) / scale);
  // Python rounds a half to the even neighbour
  const nearest = Math.abs(scaled % 1) === 0.5 ? 2 * Math.round(scaled / 2) : Math.round(scaled);
  return new Float(nearest / scale);
}

function indent(value: Value, args: Arguments): Value {
  const width = args.get(0, 'width');
  const margin = width instanceof Str ? width.value : ' '.repeat(args.int(0, 'width', 4));
  const [first, blank] = [args.flag(1, 'first'), args.flag(2, 'blank')];
  const [head = '', ...rest] = splitLines(`${text(value)}\n`);
  const lines = rest.map((line) => (line === '' && !blank ? line : margin + line));
  return str([first ? margin + head : head, ...lines].join('\n'));
}

function truncate(value: Value, args: Arguments): Value {
  const most = args.int(0, 'length', 255);
  const end = args.text(2, 'end') ?? '...';
  const characters = Array.from(text(value));
  if (characters.length <= most + args.int(3, 'leeway', 5)) return str(characters.join(''));
  const kept = characters.slice(0, most - Array.from(end).length).join('');
  const lastSpace = kept.lastIndexOf(' ');
  return str((args.flag(1, 'killwords') || lastSpace < 0 ? kept : kept.slice(0, lastSpace)) + end);
}

function escapeMarkup(value: Value): Value {
  if ((value as Text).isMarkup) return value;
  const marks: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' };
  return safe(str(text(value).replace(/[&<>'"]/g, (mark) => marks[mark]!)));
}

function safe(value: Value): Value {
  return Object.assign(str(text(value)), { isMarkup: true });
}

function extreme(sign: number): Filter {
  return (value, args, host) => {
    const key = keyOf(host, args.get(1, 'attribute'), args.flag(0, 'case_sensitive'));
    const found = iterate(value);
    return found.length === 0 ? undefinedValue() : found.reduce((a, b) => (sign * compare(key(b), key(a)) > 0 ? b : a));
  };
}

function sum(value: Value, args: Arguments, host: Host): Value {
  const attribute = args.get(0, 'attribute');
  const numbers = [
    args.get(1, 'start') ?? new Int(0),
    ...iterate(value).map((item) => (attribute ? path(host, item, attribute) : item)),
  ];
  const wrong = numbers.find((number) => !isNumber(number));
  if (wrong) throw new TemplateFault('TypeError', `unsupported operand type(s) for +: 'int' and '${typeName(wrong)}'`);
  const total = numbers.reduce((a, b) => a + numberOf(b), 0);
  return numbers.some((number) => number instanceof Float) ? new Float(total) : new Int(total);
}

function reverse(value: Value): Value {
  const found = [...iterate(value)].reverse();
  return value instanceof Str ? str(found.map(text).join('')) : list(found);
}

function absolute(value: Value): Value {
  if (value instanceof Float) return new Float(Math.abs(value.value));
  if (isNumber(value)) return new Int(Math.abs(numberOf(value)));
  throw new TemplateFault('TypeError', `bad operand type for abs(): '${typeName(value)}'`);
}

function orDefault(value: Value, args: Arguments): Value {
  const isMissing = value instanceof Undefined || (args.flag(1, 'boolean') && !isTrue(value));
  return isMissing ? (args.get(0, 'default_value') ?? str('')) : value;
}

const filters: Record<string, Filter> = {
  ...{
    length,
    count: length,
    sort: sorted,
    dictsort,
    unique,
    map,
    join,
    tojson: json,
    int: toInt,
    float: toFloat,
    round,
    indent,
  },
  ...{
    truncate,
    escape: escapeMarkup,
    e: escapeMarkup,
    safe,
    sum,
    reverse,
    abs: absolute,
    default: orDefault,
    d: orDefault,
  },
  ...{ max: extreme(1), min: extreme(-1) },
  ...{ select: choose(true, false), reject: choose(false, false) },
  ...{ selectattr: choose(true, true), rejectattr: choose(false, true) },
  items: (value) => list(items(value)),
  list: (value) => list([...iterate(value)]),
  first: (value) => iterate(value)[0] ?? undefinedValue(),
  last: (value) => iterate(value).at(-1) ?? undefinedValue(),
  string: (value) => (value instanceof Str ? value : str(text(value))),
  upper: (value) => str(text(value).toUpperCase()),
  lower: (value) => str(text(value).toLowerCase()),
  title: (value) => str(title(text(value))),
  capitalize: (value) => str(capitalize(text(value))),
  trim: (value, args) => str(strip(text(value), args.text(0, 'chars'), 'both')),
  replace: (value, args) =>
    str(replaceText(text(value), args.text(0, 'old') ?? '', args.text(1, 'new') ?? '', args.int(2, 'count', -1))),
  format: (value, args) => str(percent(text(value), args.placed)),
  attr: (value, args, host) =>
    value instanceof Dict || value instanceof Namespace
      ? undefinedValue()
      : host.attribute(value, args.text(0, 'name') ?? ''),
};

export function filterNamed(name: string): Filter {
  if (Object.hasOwn(filters, name)) return filters[name]!;
  throw new TemplateFault('TemplateSyntaxError', `No filter named '${name}'.`);
}
