import { Environment, Interpreter } from '@huggingface/jinja';
import { Arguments, filterNamed, type Host } from './filters.js';
import { contains, predicate } from './predicates.js';
import { capturedWith, withArgument } from './source.js';
import { percent, textMethod } from './strings.js';
import {
  Bool,
  type Call,
  Callable,
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
  type Scope,
  Str,
  TemplateFault,
  Tuple,
  text,
  typeName,
  Undefined,
  undefinedValue,
  type Value,
} from './values.js';

/** A node of the library's syntax tree, as far as this file reads one. */
// biome-ignore lint/suspicious/noExplicitAny: the library does not export the types of its nodes
type Node = any;

/** The methods that are put right here; the library declares them private. */
interface OpenInterpreter {
  evaluate(node: Node, scope: Scope): Value;
  evaluateSet(node: Node, scope: Scope): Value;
  evaluateMacro(node: Node, scope: Scope): Value;
  evaluateSliceExpression(object: Value, node: Node, scope: Scope): Value;
  evaluateArguments(args: Node[], scope: Scope): [Value[], Map<string, Value>];
}

const Open = Interpreter as unknown as new (environment: Environment) => OpenInterpreter;

/** `break` and `continue`, with the text that the loop's body wrote before. */
class LoopControl extends Error {
  written = '';
  constructor(readonly isBreak: boolean) {
    super('loop control');
  }
}

const silent = new Set(['Set', 'Macro', 'Comment']);

/**
 * The library's interpreter with Python's meaning of values: what is printed for `None`, `True` and lists, how values compare
 * and add, what a loop accepts, which filters, tests and methods there are, and that an undefined value has no attributes.
 */
export class PythonInterpreter extends Open implements Host {
  evaluateBlock(statements: Node[], scope: Scope): Value {
    let written = '';
    for (const statement of statements) {
      try {
        const value = this.evaluate(statement, scope);
        if (!silent.has(statement.type)) written += text(value);
      } catch (error) {
        if (error instanceof LoopControl) error.written = written + error.written;
        throw error;
      }
    }
    return new Str(written);
  }

  override evaluate(node: Node, scope: Scope): Value {
    if (node?.type === 'Break' || node?.type === 'Continue') throw new LoopControl(node.type === 'Break');
    return super.evaluate(node, scope);
  }

  evaluateFor(node: Node, outer: Scope): Value {
    const isSelected = node.iterable.type === 'SelectExpression';
    const bind = (scope: Scope, item: Value) => assign(scope, node.loopvar, item);
    let items = iterate(this.evaluate(isSelected ? node.iterable.lhs : node.iterable, outer));
    if (isSelected) {
      items = items.filter((item) => {
        const scope = new Environment(outer);
        bind(scope, item);
        return isTrue(this.evaluate(node.iterable.test, scope));
      });
    }
    if (items.length === 0) return this.evaluateBlock(node.defaultBlock, outer);
    let written = '';
    for (const [i, item] of items.entries()) {
      const scope = new Environment(outer);
      // `with` is read as a loop of one turn (see source.ts); it has no `loop` of its own
      if (node.loopvar.value !== capturedWith) scope.setVariable('loop', loopOf(items, i) as never);
      bind(scope, item);
      try {
        written += text(this.evaluateBlock(node.body, scope));
      } catch (error) {
        if (!(error instanceof LoopControl)) throw error;
        written += error.written;
        if (error.isBreak) break;
      }
    }
    return new Str(written);
  }

  /** `{% set x | upper %}…{% endset %}` sets the filtered block; the library reads the filters as part of the name. */
  override evaluateSet(node: Node, scope: Scope): Value {
    if (node.assignee.type !== 'FilterExpression') return super.evaluateSet(node, scope);
    const chain: Node[] = [];
    let assignee = node.assignee;
    for (; assignee.type === 'FilterExpression'; assignee = assignee.operand) chain.unshift(assignee.filter);
    const value = chain.reduce(
      (so, filter) => this.applyFilter(so, filter, scope),
      this.evaluateBlock(node.body, scope),
    );
    scope.setVariable(assignee.value, value as never);
    return new Null(null);
  }

  /** A macro knows its name. */
  override evaluateMacro(node: Node, scope: Scope): Value {
    const nothing = super.evaluateMacro(node, scope);
    const macro = scope.variables.get(node.name.value) as Value;
    Object.assign(macro, { macroName: node.name.value });
    return nothing;
  }

  applyFilter(operand: Value, node: Node, scope: Scope): Value {
    const isCall = node.type === 'CallExpression';
    const [placed, named] = isCall ? this.evaluateArguments(node.args, scope) : [[], new Map<string, Value>()];
    const name: string = isCall ? node.callee.value : node.value;
    if (name.startsWith(withArgument)) {
      const test = name.slice(withArgument.length);
      const isNot = test.startsWith('not ');
      return new Bool(predicate(isNot ? test.slice(4) : test)(operand, placed[0]) !== isNot);
    }
    return this.filter(name, operand, new Arguments(placed, named));
  }

  filter(name: string, value: Value, args: Arguments): Value {
    return filterNamed(name)(value, args, this);
  }

  evaluateTestExpression(node: Node, scope: Scope): Value {
    const test = predicate(node.test.value);
    return new Bool(test(this.evaluate(node.operand, scope)) !== node.negate);
  }

  evaluateMemberExpression(node: Node, scope: Scope): Value {
    const object = this.evaluate(node.object, scope);
    if (object instanceof Undefined) {
      const name = node.object.type === 'Identifier' ? `'${node.object.value}'` : 'the value';
      throw new TemplateFault('UndefinedError', `${name} is undefined`);
    }
    if (node.computed && node.property.type === 'SliceExpression') {
      const slice = super.evaluateSliceExpression(object, node.property, scope);
      return object instanceof Tuple ? new Tuple(slice.value as Value[]) : slice;
    }
    if (!node.computed) return this.attribute(object, String(node.property.value));
    const key = this.evaluate(node.property, scope);
    if (key instanceof Int && !(object instanceof Dict)) {
      const items = object instanceof List || object instanceof Str ? iterate(object) : [];
      return items.at(key.value) ?? undefinedValue();
    }
    if (!(key instanceof Str)) return undefinedValue();
    const item = object instanceof Dict || object instanceof Namespace ? object.value.get(key.value) : undefined;
    return item ?? this.attribute(object, key.value);
  }

  /** Jinja's `object.name`: a method first, then an item. */
  attribute(object: Value, name: string): Value {
    if (object instanceof Undefined) throw new TemplateFault('UndefinedError', `an undefined value has no '${name}'`);
    if (object instanceof Namespace) return object.value.get(name) ?? undefinedValue();
    if (object instanceof Dict) {
      const method = dictMethod(object.value, name);
      return method ? new Callable(method) : (object.value.get(name) ?? undefinedValue());
    }
    if (object instanceof Callable && name === 'name')
      return new Str((object as { macroName?: string }).macroName ?? '');
    const method = object instanceof Str ? textMethod(object.value, name) : undefined;
    return method ? new Callable(method) : undefinedValue();
  }

  evaluateBinaryExpression(node: Node, scope: Scope): Value {
    const left = this.evaluate(node.left, scope);
    const operator: string = node.operator.value;
    if (operator === 'and') return isTrue(left) ? this.evaluate(node.right, scope) : left;
    if (operator === 'or') return isTrue(left) ? left : this.evaluate(node.right, scope);
    const right = this.evaluate(node.right, scope);
    switch (operator) {
      case '==':
        return new Bool(equals(left, right));
      case '!=':
        return new Bool(!equals(left, right));
      case '~':
        return new Str(text(left) + text(right));
      case 'in':
        return new Bool(contains(right, left));
      case 'not in':
        return new Bool(!contains(right, left));
      case '<':
        return new Bool(compare(left, right, '<') < 0);
      case '<=':
        return new Bool(compare(left, right, '<=') <= 0);
      case '>':
        return new Bool(compare(left, right, '>') > 0);
      case '>=':
        return new Bool(compare(left, right, '>=') >= 0);
      default:
        return arithmetic(operator, left, right);
    }
  }
}

function arithmetic(operator: string, left: Value, right: Value): Value {
  for (const value of [left, right]) {
    if (value instanceof Undefined) throw new TemplateFault('UndefinedError', `an operand of ${operator} is undefined`);
  }
  if (operator === '+') {
    if (left instanceof Str && right instanceof Str) return new Str(left.value + right.value);
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple(left.value.concat(right.value));
    const areLists =
      left instanceof List && right instanceof List && !(left instanceof Tuple || right instanceof Tuple);
    if (areLists) return new List(left.value.concat(right.value));
  }
  if (operator === '*' && (left instanceof Int || right instanceof Int)) {
    const [count, repeated] =
      left instanceof Int ? [left.value, right] : [(right as InstanceType<typeof Int>).value, left];
    if (repeated instanceof Str) return new Str(repeated.value.repeat(Math.max(0, count)));
    if (repeated instanceof List)
      return new List(Array.from({ length: Math.max(0, count) }, () => repeated.value).flat());
  }
  if (operator === '%' && left instanceof Str) {
    return new Str(percent(left.value, right instanceof Tuple ? right.value : [right]));
  }
  if (!isNumber(left) || !isNumber(right)) {
    const types = `'${typeName(left)}' and '${typeName(right)}'`;
    throw new TemplateFault('TypeError', `unsupported operand type(s) for ${operator}: ${types}`);
  }
  const [a, b] = [numberOf(left), numberOf(right)];
  const isFloat = left instanceof Float || right instanceof Float || operator === '/' || (operator === '**' && b < 0);
  if (b === 0 && ['/', '//', '%'].includes(operator)) throw new TemplateFault('ZeroDivisionError', 'division by zero');
  const results: Record<string, () => number> = {
    '+': () => a + b,
    '-': () => a - b,
    '*': () => a * b,
    '/': () => a / b,
    '//': () => Math.floor(a / b),
    '%': () => a - b * Math.floor(a / b),
    '**': () => a ** b,
  };
  const result = results[operator]!();
  return isFloat ? new Float(result) : new Int(result);
}

/** Sets one name, or as many as a tuple of names has. */
function assign(scope: Scope, target: Node, item: Value): void {
  if (target.type === 'Identifier') {
    scope.setVariable(target.value, item as never);
    return;
  }
  const values = iterate(item);
  if (values.length !== target.value.length) {
    const problem = values.length < target.value.length ? 'not enough' : 'too many';
    throw new TemplateFault('ValueError', `${problem} values to unpack (expected ${target.value.length})`);
  }
  for (const [i, name] of target.value.entries()) assign(scope, name, values[i]!);
}

function loopOf(items: readonly Value[], i: number): Value {
  const cycle: Call = (args) => args[i % args.length] ?? undefinedValue();
  return new Dict(
    new Map<string, Value>([
      ['index', new Int(i + 1)],
      ['index0', new Int(i)],
      ['revindex', new Int(items.length - i)],
      ['revindex0', new Int(items.length - i - 1)],
      ['first', new Bool(i === 0)],
      ['last', new Bool(i === items.length - 1)],
      ['length', new Int(items.length)],
      ['previtem', items[i - 1] ?? undefinedValue()],
      ['nextitem', items[i + 1] ?? undefinedValue()],
      ['cycle', new Callable(cycle)],
    ]),
  );
}

function dictMethod(entries: ReadonlyMap<string, Value>, name: string): Call | undefined {
  switch (name) {
    case 'get':
      return ([key, otherwise]) =>
        (key instanceof Str ? entries.get(key.value) : undefined) ?? otherwise ?? new Null(null);
    case 'items':
      return () => new List(Array.from(entries, ([key, value]) => new Tuple([new Str(key), value])));
    case 'keys':
      return () => new List(Array.from(entries.keys(), (key) => new Str(key)));
    case 'values':
      return () => new List([...entries.values()]);
    default:
      return undefined;
  }
}
