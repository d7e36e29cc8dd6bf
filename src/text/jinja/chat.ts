import { Environment } from '@huggingface/jinja';
import { CrosscurrentError } from '../../errors.js';
import type { ChatRequest, SpecialToken } from '../protocol.js';
import { isObject } from '../tokenizer-json.js';
import { strftime } from './clock.js';
import { PythonInterpreter } from './interpreter.js';
import { type Program, parseTemplate } from './source.js';
import {
  type Call,
  Callable,
  Dict,
  fromJs,
  iterate,
  Keywords,
  Str,
  TemplateFault,
  text,
  type Value,
} from './values.js';

const templateError = (message: string, cause: unknown) =>
  new CrosscurrentError('TEMPLATE_ERROR', `chat template: ${message}`, { cause });

/** Parses a template once, to render it many times. */
export class Template {
  private readonly program: Program;

  /** @throws CrosscurrentError TEMPLATE_ERROR where the source cannot be read. */
  constructor(source: string) {
    try {
      this.program = parseTemplate(source);
    } catch (cause) {
      throw templateError((cause as Error).message, cause);
    }
  }

  /** @throws CrosscurrentError TEMPLATE_ERROR where the template raises or does what Python would refuse. */
  render(variables: Record<string, unknown>, now: Date): string {
    const environment = new Environment();
    const functions: Record<string, Call> = {
      raise_exception: ([message]) => {
        throw new TemplateFault('TemplateError', message ? text(message) : '');
      },
      strftime_now: ([format]) => new Str(strftime(now, format ? text(format) : '')),
      dict: makeDict,
    };
    for (const name of ['true', 'True']) environment.set(name, true);
    for (const name of ['false', 'False']) environment.set(name, false);
    for (const name of ['none', 'None']) environment.set(name, null);
    environment.set('range', range);
    for (const [name, call] of Object.entries(functions)) environment.setVariable(name, new Callable(call) as never);
    try {
      for (const [name, value] of Object.entries(variables)) environment.setVariable(name, fromJs(value) as never);
    } catch (cause) {
      const { message } = cause as Error;
      throw new CrosscurrentError('INVALID_ARGUMENT', `messages: expected plain data, got ${message}`, { cause });
    }
    try {
      return text(new PythonInterpreter(environment).evaluateBlock(this.program.body, environment));
    } catch (cause) {
      throw templateError((cause as Error).message, cause);
    }
  }
}

/** A template that lists more is a mistake or an attack; Jinja's sandbox has the same bound. */
const longestRange = 100_000;

function range(...bounds: number[]): number[] {
  const [start, stop] = bounds.length === 1 ? [0, bounds[0]!] : [bounds[0]!, bounds[1]!];
  const step = bounds[2] ?? 1;
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (![start, stop, step].every(Number.isInteger) || step === 0)
    throw new TemplateFault('ValueError', 'range() of integers');
  if (length > longestRange) throw new TemplateFault('ValueError', `range too big, maximum size is ${longestRange}`);
  return Array.from({ length }, (_, i) => start + i * step);
}

const makeDict: Call = (args) => {
  const entries = new Map<string, Value>();
  for (const arg of args) {
    if (arg instanceof Dict || arg instanceof Keywords) for (const [key, value] of arg.value) entries.set(key, value);
    else for (const pair of iterate(arg)) entries.set(text(iterate(pair)[0]!), iterate(pair)[1]!);
  }
  return new Dict(entries);
};

/** The chat templates of a tokenizer. */
export class ChatRenderer {
  private readonly parsed = new Map<string, Template>();

  constructor(
    private readonly templates: ReadonlyMap<string, string>,
    private readonly special: Readonly<Record<string, SpecialToken>>,
  ) {}

  /** As the reference does: `tools` and `documents` are null when not given, and keys of a message that are null are left out. */
  render(request: ChatRequest): string {
    const tokens = Object.entries(this.special).map(([name, { text }]) => [`${name}_token`, text]);
    const variables = {
      ...Object.fromEntries(tokens),
      messages: request.messages.map(referenceMessage),
      tools: request.tools,
      documents: request.documents,
      add_generation_prompt: request.addGenerationPrompt,
      ...request.variables,
    };
    return this.template(request.tools !== null).render(variables, new Date(request.now));
  }

  private template(hasTools: boolean): Template {
    const name = hasTools && this.templates.has('tool_use') ? 'tool_use' : 'default';
    const source = this.templates.get(name);
    if (source === undefined) {
      throw new CrosscurrentError('MISSING_TEMPLATE', 'chat template: expected one beside the tokenizer, got none', {
        operand: 'chat template',
        expected:
          'chat_template.jinja, chat_template in tokenizer_config.json or tokenizer.chat_template in the GGUF metadata',
        got: this.templates.size === 0 ? 'none' : `only ${[...this.templates.keys()].join(', ')}`,
      });
    }
    const known = this.parsed.get(name) ?? new Template(source);
    this.parsed.set(name, known);
    return known;
  }
}

/** A message as the reference hands it to a template: no null keys, and the reasoning under both of its names. */
export function referenceMessage(message: unknown): unknown {
  if (!isObject(message)) return message;
  const kept = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null));
  if (kept.reasoning_content !== undefined) kept.thinking ??= kept.reasoning_content;
  return kept;
}
