import { isLower, isUpper } from './strings.js';
import {
  Bool,
  Callable,
  compare,
  Dict,
  equals,
  Float,
  Int,
  isNumber,
  iterate,
  List,
  Null,
  numberOf,
  Str,
  TemplateFault,
  text,
  Undefined,
  type Value,
} from './values.js';

export type Predicate = (value: Value, other?: Value) => boolean;

const need = (other: Value | undefined): Value => {
  if (other === undefined) throw new TemplateFault('TypeError', 'the test takes an argument');
  return other;
};
const remainder = (value: Value, by: number): number => {
  if (!isNumber(value)) throw new TemplateFault('TypeError', 'not all arguments converted during string formatting');
  return numberOf(value) % by;
};

export function contains(container: Value, item: Value): boolean {
  if (container instanceof Str) {
    if (item instanceof Str) return container.value.includes(item.value);
    throw new TemplateFault('TypeError', "'in <string>' requires string as left operand");
  }
  if (container instanceof Dict) return item instanceof Str && container.value.has(item.value);
  return iterate(container).some((one) => equals(one, item));
}

const eq: Predicate = (value, other) => equals(value, need(other));
const ne: Predicate = (value, other) => !equals(value, need(other));
const lt: Predicate = (value, other) => compare(value, need(other), '<') < 0;
const le: Predicate = (value, other) => compare(value, need(other), '<=') <= 0;
const gt: Predicate = (value, other) => compare(value, need(other), '>') > 0;
const ge: Predicate = (value, other) => compare(value, need(other), '>=') >= 0;

/** Jinja's tests by name, for `is`, `select`, `selectattr` and their opposites. */
const predicates: Record<string, Predicate> = {
  boolean: (value) => value instanceof Bool,
  callable: (value) => value instanceof Callable,
  defined: (value) => !(value instanceof Undefined),
  undefined: (value) => value instanceof Undefined,
  none: (value) => value instanceof Null,
  true: (value) => value instanceof Bool && value.value,
  false: (value) => value instanceof Bool && !value.value,
  string: (value) => value instanceof Str,
  number: isNumber,
  integer: (value) => value instanceof Int,
  float: (value) => value instanceof Float,
  mapping: (value) => value instanceof Dict,
  sequence: (value) => value instanceof List || value instanceof Dict || value instanceof Str,
  iterable: (value) =>
    value instanceof List || value instanceof Dict || value instanceof Str || value instanceof Undefined,
  odd: (value) => Math.abs(remainder(value, 2)) === 1,
  even: (value) => remainder(value, 2) === 0,
  divisibleby: (value, by) => remainder(value, numberOf(need(by))) === 0,
  lower: (value) => isLower(text(value)),
  upper: (value) => isUpper(text(value)),
  sameas: (value, other) => value.type === need(other).type && value.value === need(other).value,
  in: (value, other) => contains(need(other), value),
  ...{ eq, equalto: eq, '==': eq, ne, '!=': ne, lt, lessthan: lt, '<': lt, le, '<=': le },
  ...{ gt, greaterthan: gt, '>': gt, ge, '>=': ge },
};

export function predicate(name: string): Predicate {
  if (Object.hasOwn(predicates, name)) return predicates[name]!;
  throw new TemplateFault('TemplateSyntaxError', `No test named '${name}'.`);
}
