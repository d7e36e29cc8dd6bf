import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';

// The values of the template library, with Python's text, equality and order. The library does not export their classes, so
// one value of each kind is made and its class taken.

export interface Value {
  readonly type: string;
  readonly value: unknown;
  __bool__(): { value: boolean };
}

export type Scope = Environment;
export type Call = (args: Value[], scope: Scope) => Value;

type Class<T> = new (value: T) => Value & { value: T };

const environment = new Environment();
const classOf = <T>(example: T): Class<T> =>
  environment.set(`example ${environment.variables.size}`, example).constructor as Class<T>;
const evaluate = (source: string): Value => {
  const [expression] = parse(tokenize(source)).body;
  return new Interpreter(environment).evaluate(expression, environment) as Value;
};

export const Int = classOf(1);
export const Float = classOf(0.5);
export const Str = classOf('');
export const Bool = classOf(true);
export const Null = classOf(null);
export const Undefined = classOf(undefined);
export const List = classOf([]) as unknown as Class<Value[]>;
export const Dict = classOf({}) as unknown as Class<Map<string, Value>>;
export const Callable = classOf(() => {}) as unknown as Class<Call>;
export const Tuple = evaluate('{{ (1, 2) }}').constructor as Class<Value[]>;
export const Namespace = evaluate('{{ namespace() }}').constructor as Class<Map<string, Value>>;
export const Keywords = (() => {
  let last: Value | undefined;
  environment.variables.set(
    'keywords',
    new Callable((args) => {
      last = args.at(-1);
      return new Null(null);
    }) as never,
  );
  evaluate('{{ keywords(a=1) }}');
  return last!.constructor as Class<Map<string, Value>>;
})();

export type Text = InstanceType<typeof Str> & { isMarkup?: boolean };

export const undefinedValue = (): Value => new Undefined(undefined);
export const fromJs = (value: unknown): Value => new Environment().set('value', value) as Value;

/** An error of the template's own program, worded as Python would. */
export class TemplateFault extends Error {
  constructor(
    readonly kind:
      | 'TypeError'
      | 'UndefinedError'
      | 'ValueError'
      | 'ZeroDivisionError'
      | 'TemplateError'
      | 'TemplateSyntaxError',
    message: string,
  ) {
    super(message);
    this.name = kind;
  }
}

const pythonNames: Record<string, string> = {
  IntegerValue: 'int',
  FloatValue: 'float',
  StringValue: 'str',
  BooleanValue: 'bool',
  NullValue: 'NoneType',
  UndefinedValue: 'Undefined',
  ArrayValue: 'list',
  TupleValue: 'tuple',
  ObjectValue: 'dict',
  NamespaceValue: 'Namespace',
  FunctionValue: 'function',
};
export const typeName = (value: Value): string => pythonNames[value.type] ?? value.type;

export const isNumber = (value: Value): value is InstanceType<typeof Int> =>
  value instanceof Int || value instanceof Float || value instanceof Bool;
/** Python counts True and False as 1 and 0. */
export const numberOf = (value: Value): number => Number(value.value);
export const isTrue = (value: Value): boolean => (value instanceof Float ? value.value !== 0 : value.__bool__().value);

/** What a loop or a filter sees of a value; an undefined one is empty, as in Jinja. */
export function iterate(value: Value): Value[] {
  if (value instanceof List) return value.value;
  if (value instanceof Str) return Array.from(value.value, (character) => new Str(character));
  if (value instanceof Dict) return Array.from(value.value.keys(), (key) => new Str(key));
  if (value instanceof Undefined) return [];
  throw new TemplateFault('TypeError', `'${typeName(value)}' object is not iterable`);
}

export function equals(a: Value, b: Value): boolean {
  if (isNumber(a) && isNumber(b)) return numberOf(a) === numberOf(b);
  if (a instanceof List && b instanceof List) {
    const isSameKind = a instanceof Tuple === b instanceof Tuple;
    return isSameKind && a.value.length === b.value.length && a.value.every((item, i) => equals(item, b.value[i]!));
  }
  if (a instanceof Dict && b instanceof Dict) {
    const isSame = ([key, item]: [string, Value]) => b.value.has(key) && equals(item, b.value.get(key)!);
    return a.value.size === b.value.size && [...a.value].every(isSame);
  }
  return a.type === b.type && a.value === b.value;
}

/** Python orders numbers, texts (by code point) and lists, and refuses to mix them. */
export function compare(a: Value, b: Value, operator = '<'): number {
  if (isNumber(a) && isNumber(b)) return numberOf(a) - numberOf(b);
  if (a instanceof Str && b instanceof Str) return Buffer.compare(Buffer.from(a.value), Buffer.from(b.value));
  if (a instanceof List && b instanceof List) {
    for (let i = 0; i < Math.min(a.value.length, b.value.length); i++) {
      if (!equals(a.value[i]!, b.value[i]!)) return compare(a.value[i]!, b.value[i]!, operator);
    }
    return a.value.length - b.value.length;
  }
  const names = `'${typeName(a)}' and '${typeName(b)}'`;
  throw new TemplateFault('TypeError', `'${operator}' not supported between instances of ${names}`);
}

/** Python's shortest form of a float: an exponent from 1e16 up and below 1e-4, and always a sign that it is a float. */
export function floatText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) {
    const [digits, exponent] = value.toExponential().split('e') as [string, string];
    return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, '0')}`;
  }
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}

export function text(value: Value): string {
  if (value instanceof Str) return value.value;
  if (value instanceof Undefined) return '';
  return repr(value);
}

export function repr(value: Value): string {
  if (value instanceof Str) return quoted(value.value);
  if (value instanceof Float) return floatText(value.value);
  if (value instanceof Bool) return value.value ? 'True' : 'False';
  if (value instanceof Null) return 'None';
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Tuple) {
    return value.value.length === 1 ? `(${repr(value.value[0]!)},)` : `(${value.value.map(repr).join(', ')})`;
  }
  if (value instanceof List) return `[${value.value.map(repr).join(', ')}]`;
  if (value instanceof Dict) {
    return `{${Array.from(value.value, ([key, item]) => `${quoted(key)}: ${repr(item)}`).join(', ')}}`;
  }
  if (value instanceof Int) return String(value.value);
  return `<${typeName(value)}>`;
}

function quoted(value: string): string {
  const mark = value.includes("'") && !value.includes('"') ? '"' : "'";
  const inner = value.replace(/[\\'"]|[^\P{C}\p{Co}]|[^\P{Z} ]/gu, (character) => {
    if (character === "'" || character === '"') return character === mark ? `\\${character}` : character;
    const short = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' }[character];
    if (short !== undefined) return short;
    const code = character.codePointAt(0)!;
    const hex = code.toString(16);
    if (code < 0x100) return `\\x${hex.padStart(2, '0')}`;
    return code < 0x10000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`;
  });
  return mark + inner + mark;
}

export interface JsonOptions {
  indent: string | undefined;
  separators: readonly [string, string];
  isAscii: boolean;
  sortsKeys: boolean;
}

/** Python's `json.dumps`. */
export function toJson(value: Value, options: JsonOptions, margin = '\n'): string {
  const { indent, separators, isAscii } = options;
  const textJson = (raw: string) => {
    const json = JSON.stringify(raw);
    const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
    return isAscii ? json.replace(/[\x7f-\uffff]/g, escaped) : json;
  };
  if (value instanceof Str) return textJson(value.value);
  if (value instanceof Int) return String(value.value);
  if (value instanceof Float) return floatText(value.value);
  if (value instanceof Bool) return String(value.value);
  if (value instanceof Null) return 'null';
  const inner = margin + (indent ?? '');
  let items: string[];
  let brackets: string;
  if (value instanceof List) {
    items = value.value.map((item) => toJson(item, options, inner));
    brackets = '[]';
  } else if (value instanceof Dict) {
    const entries = [...value.value];
    if (options.sortsKeys) entries.sort(([a], [b]) => compare(new Str(a), new Str(b)));
    items = entries.map(([key, item]) => textJson(key) + separators[1] + toJson(item, options, inner));
    brackets = '{}';
  } else {
    throw new TemplateFault('TypeError', `Object of type ${typeName(value)} is not JSON serializable`);
  }
  if (items.length === 0) return brackets;
  const [open, close] = indent === undefined ? ['', ''] : [inner, margin];
  const between = indent === undefined ? separators[0] : separators[0] + inner;
  return brackets[0] + open + items.join(between) + close + brackets[1];
}
