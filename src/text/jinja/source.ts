import { parse, tokenize } from '@huggingface/jinja';

// What the library's lexer and parser do not read is rewritten into what they do, in two passes: over the source (raw blocks,
// `{%+` and `+%}`, escapes and numbers as Python writes them) and over the tokens (tests with an argument, `with`).

/** Marks a filter that stands for a test with an argument: `x is ge(1)` is read as `x | <mark>ge(1)`. */
export const withArgument = 'test ';
/** The loop variable of the loop of one turn that stands for `{% with %}`. */
export const capturedWith = 'with ';

type Token = ReturnType<typeof tokenize>[number];
export type Program = ReturnType<typeof parse>;

/** @throws SyntaxError of the library */
export function parseTemplate(source: string): Program {
  const tokens = tokenize(rewriteSource(source), { lstrip_blocks: true, trim_blocks: true });
  return parse(rewriteTokens(tokens));
}

const raw = /\{%([-+]?)\s*raw\s*(-?)%\}([\s\S]*?)\{%(-?)\s*endraw\s*([-+]?)%\}/y;
/** An expression that writes nothing: it keeps the space beside it from being trimmed. */
const nothing = "{{''}}";

function rewriteSource(source: string): string {
  const template = source.replace(/\r\n?/g, '\n');
  let result = '';
  let at = 0;
  for (;;) {
    const open = nextTag(template, at);
    if (open < 0) return result + template.slice(at);
    result += template.slice(at, open);
    raw.lastIndex = open;
    const rawBlock = raw.exec(template);
    if (rawBlock !== null) {
      result += rewriteRaw(rawBlock);
      at = raw.lastIndex;
    } else {
      const end = tagEnd(template, open);
      result += rewriteTag(template.slice(open, end));
      at = end;
    }
  }
}

function nextTag(template: string, from: number): number {
  const tag = /\{[{%#]/g;
  tag.lastIndex = from;
  return tag.exec(template)?.index ?? -1;
}

/** Behind the tag's end; a quoted `}}` or the one of a dictionary does not end it. */
function tagEnd(template: string, open: number): number {
  const kind = template[open + 1];
  if (kind === '#') {
    const end = template.indexOf('#}', open + 2);
    return end < 0 ? template.length : end + 2;
  }
  let depth = 0;
  for (let at = open + 2; at < template.length; at++) {
    const character = template[at]!;
    if (character === "'" || character === '"') at = stringEnd(template, at) - 1;
    else if (kind === '%' && template.startsWith('%}', at)) return at + 2;
    else if (kind === '{' && depth === 0 && template.startsWith('}}', at)) return at + 2;
    else if (character === '{') depth++;
    else if (character === '}') depth--;
  }
  return template.length;
}

function stringEnd(template: string, open: number): number {
  for (let at = open + 1; at < template.length; at++) {
    if (template[at] === '\\') at++;
    else if (template[at] === template[open]) return at + 1;
  }
  return template.length;
}

function rewriteRaw([, before, stripStart, content, stripEnd, after]: RegExpExecArray): string {
  let text = content!;
  if (stripStart) text = text.trimStart();
  if (stripEnd) text = text.trimEnd();
  else text = text.replace(/(?<=^|\n)[ \t]+$/, ''); // `lstrip_blocks` of the endraw tag
  const quoted = JSON.stringify(text).replace(/[{}]/g, (brace) => `\\x${brace.charCodeAt(0).toString(16)}`);
  const opening = before === '-' ? '{#-#}' : before === '+' ? nothing : '{##}';
  const closing = after === '-' ? '{# -#}' : after === '+' ? nothing : '{##}';
  return `${opening}{{${quoted}}}${closing}`;
}

function rewriteTag(tag: string): string {
  if (tag.startsWith('{#')) return tag;
  const opening = tag.startsWith('{%+') ? `${nothing}{%` : tag.slice(0, 2);
  const start = tag.startsWith('{%+') ? 3 : 2;
  const closing = tag.endsWith('+%}') ? `%}${nothing}` : tag.slice(-2);
  const end = tag.length - (tag.endsWith('+%}') ? 3 : 2);
  const piece =
    /'(?:\\[\s\S]|[^'\\])*'|"(?:\\[\s\S]|[^"\\])*"|(?<![\w.])(?:0[xXoObB][\da-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][-+]?\d+)?)\b/g;
  const inner = tag
    .slice(start, end)
    .replace(piece, (found) => (/^['"]/.test(found) ? rewriteString(found) : rewriteNumber(found)));
  return opening + inner + closing;
}

/** Escapes the library refuses: Python drops a line break after `\`, and keeps a `\` that begins no escape. */
function rewriteString(literal: string): string {
  return literal.replace(/\\(U[\da-fA-F]{8}|[0-7]{1,3}|[\s\S])/g, (escaped, what: string) => {
    if (what === '\n') return '';
    if (what === 'a') return '\\x07';
    if (what.length > 1 && what.startsWith('U')) {
      const units = String.fromCodePoint(Number.parseInt(what.slice(1), 16)).split('');
      return units.map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`).join('');
    }
    if (/^[0-7]/.test(what)) return `\\x${(Number.parseInt(what, 8) & 0xff).toString(16).padStart(2, '0')}`;
    return 'ntrbfvxu\'"\\'.includes(what) ? escaped : `\\${escaped}`;
  });
}

function rewriteNumber(literal: string): string {
  const plain = literal.replaceAll('_', '');
  if (/^0[xXoObB]/.test(plain)) return String(Number(plain));
  if (!/[eE]/.test(plain)) return plain;
  const value = Number(plain);
  return value >= 1 && Number.isInteger(value) ? `${BigInt(value)}.0` : value.toFixed(100);
}

const brackets: Record<string, string> = {
  OpenParen: 'CloseParen',
  OpenSquareBracket: 'CloseSquareBracket',
  OpenCurlyBracket: 'CloseCurlyBracket',
};
const literals = new Set(['NumericLiteral', 'StringLiteral', 'OpenParen', 'OpenSquareBracket', 'OpenCurlyBracket']);
const notAnArgument = new Set(['and', 'or', 'not', 'if', 'else', 'is', 'in']);

const token = (value: string, type: Token['type']): Token => ({ value, type });

function rewriteTokens(tokens: readonly Token[]): Token[] {
  const result: Token[] = [];
  const isWord = (at: number, word: string) => tokens[at]?.type === 'Identifier' && tokens[at]?.value === word;
  for (let at = 0; at < tokens.length; at++) {
    const opensTag = tokens[at - 1]?.type === 'OpenStatement';
    if (opensTag && isWord(at, 'with')) {
      at = rewriteWith(tokens, at, result);
    } else if (opensTag && isWord(at, 'endwith')) {
      result.push(token('endfor', 'Identifier'));
    } else if (isWord(at, 'recursive') && tokens[at + 1]?.type === 'CloseStatement') {
      // Only a template that calls `loop(…)` needs it, and that call then fails by itself
    } else if (isWord(at, 'is') && tokens[at - 1]?.type !== 'Dot') {
      at = rewriteTest(tokens, at, result);
    } else {
      result.push(tokens[at]!);
    }
  }
  return result;
}

/** `with a = 1, b = 2` becomes a loop of one turn that sets the names. Returns the last token it used. */
function rewriteWith(tokens: readonly Token[], at: number, result: Token[]): number {
  const word = (value: string) => token(value, 'Identifier');
  result.push(word('for'), word(capturedWith), word('in'), token('[', 'OpenSquareBracket'));
  result.push(token('0', 'NumericLiteral'), token(']', 'CloseSquareBracket'));
  result.push(token('%}', 'CloseStatement'));
  let depth = 0;
  let isFirst = true; // of an assignment
  for (let next = at + 1; next < tokens.length; next++) {
    const { type } = tokens[next]!;
    if (type in brackets) depth++;
    if (Object.values(brackets).includes(type)) depth--;
    if (type === 'CloseStatement' || (type === 'Comma' && depth === 0)) {
      if (!isFirst) result.push(token('%}', 'CloseStatement'));
      if (type === 'CloseStatement') return next;
      isFirst = true;
      continue;
    }
    if (isFirst) result.push(token('{%', 'OpenStatement'), word('set'));
    isFirst = false;
    result.push(tokens[next]!);
  }
  return tokens.length;
}

/** `is [not] name argument` becomes a filter with the argument in parentheses: both bind as tightly. */
function rewriteTest(tokens: readonly Token[], at: number, result: Token[]): number {
  const isNot = tokens[at + 1]?.value === 'not';
  const name = at + (isNot ? 2 : 1);
  const first = tokens[name + 1];
  const isArgument =
    first !== undefined &&
    (literals.has(first.type) || (first.type === 'Identifier' && !notAnArgument.has(first.value)));
  if (tokens[name]?.type !== 'Identifier' || !isArgument) {
    result.push(tokens[at]!);
    return at;
  }
  let end = afterPiece(tokens, name + 1);
  result.push(token('|', 'Pipe'));
  result.push(token(`${withArgument}${isNot ? 'not ' : ''}${tokens[name]!.value}`, 'Identifier'));
  if (first.type === 'OpenParen') {
    result.push(...rewriteTokens(tokens.slice(name + 1, end)));
    return end - 1;
  }
  for (;;) {
    if (tokens[end]?.type === 'Dot') end += 2;
    else if (tokens[end]?.type === 'OpenSquareBracket' || tokens[end]?.type === 'OpenParen')
      end = afterPiece(tokens, end);
    else break;
  }
  result.push(token('(', 'OpenParen'), ...rewriteTokens(tokens.slice(name + 1, end)), token(')', 'CloseParen'));
  return end - 1;
}

/** Behind one token, or behind the bracket that closes it. */
function afterPiece(tokens: readonly Token[], at: number): number {
  const closing = brackets[tokens[at]!.type];
  if (closing === undefined) return at + 1;
  let depth = 0;
  for (let next = at; next < tokens.length; next++) {
    if (tokens[next]!.type === tokens[at]!.type) depth++;
    if (tokens[next]!.type === closing && --depth === 0) return next + 1;
  }
  return tokens.length;
}
