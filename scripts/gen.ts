// Writes everything that follows from the op declarations. `--check` compares instead of writing.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type AttrType, axesOf, type OpDeclaration, type Operand } from '../src/ops/define.js';
import * as ops from '../src/ops/index.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const note = 'Written by scripts/gen.ts from src/ops. Do not edit.';

const names = [...readFileSync(join(root, 'src/ops/index.ts'), 'utf8').matchAll(/export \{ (\w+)/g)].map(
  (match) => match[1] as string,
);
const declarations = names.map(
  (name) => (ops as unknown as Record<string, { declaration: OpDeclaration }>)[name]?.declaration as OpDeclaration,
);

const pascal = (name: string): string => name.replace(/(^|_)(\w)/g, (_, _sep, letter: string) => letter.toUpperCase());
const kebab = (name: string): string => name.replaceAll('_', '-');
const isState = (operand: Operand): boolean =>
  operand.kind === 'kv' || operand.kind === 'conv' || operand.kind === 'scan';

function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash | 0;
}
const signatureHash = fnv1a(JSON.stringify(declarations));

/** C++ expression that gives an axis from the decoded operands. */
function axisExpression(declaration: OpDeclaration, axis: string, known: Set<string>): string | undefined {
  const operands = [...Object.entries(declaration.inputs), ...Object.entries(declaration.outputs)];
  // An absent optional operand has no shape: ask the required ones first.
  for (const isOptional of [false, true]) {
    const asked = operands.filter(([, operand]) => operand.optional === isOptional);
    for (const [name, operand] of asked)
      for (const [i, expression] of operand.axes.entries()) if (expression === axis) return `a.${name}.dims[${i}]`;
    for (const [name, operand] of asked)
      for (const [i, expression] of operand.axes.entries()) {
        const [left, right] = expression.split('*') as [string, string?];
        if (right === undefined || (left !== axis && right !== axis)) continue;
        const other = left === axis ? right : left;
        if (other === '2') return `a.${name}.dims[${i}] / 2`;
        if (known.has(other)) return `a.${name}.dims[${i}] / a.${other}`;
      }
  }
  return undefined;
}

const enums = new Map<string, readonly string[]>();
function cppType(key: string, type: AttrType): string {
  if (type === 'f32') return 'float';
  if (type === 'bool') return 'bool';
  if (type === 'i32') return 'int32_t';
  const name = pascal(key);
  const existing = enums.get(name);
  if (existing && JSON.stringify(existing) !== JSON.stringify(type)) throw new Error(`two enums ${name}`);
  enums.set(name, type);
  return name;
}

function struct(declaration: OpDeclaration): string {
  const { name, inputs, outputs, attrs } = declaration;
  const operands = [...Object.entries(inputs), ...Object.entries(outputs)];
  const fields = operands.map(([key, operand]) => {
    const shape = isState(operand)
      ? operand.kind
      : `[${operand.axes.join(', ')}]${operand.optional ? ', optional' : ''}`;
    return `  ${isState(operand) ? 'StateView' : 'Tensor'} ${key};  // ${shape}`;
  });
  const attrFields = Object.entries(attrs).map(([key, type]) => `  ${cppType(key, type)} ${key};`);
  const axes = axesOf(declaration);
  const decode: string[] = [];
  let state = 0;
  let tensor = 0;
  for (const [key, operand] of operands)
    decode.push(isState(operand) ? `a.${key} = states[${state++}];` : `a.${key} = tensors[${tensor++}];`);
  Object.entries(attrs).forEach(([key, type], i) => {
    if (type === 'f32') decode.push(`a.${key} = std::bit_cast<float>(attrs[${i}]);`);
    else if (type === 'bool') decode.push(`a.${key} = attrs[${i}] != 0;`);
    else decode.push(`a.${key} = static_cast<${cppType(key, type)}>(attrs[${i}]);`);
  });
  const known = new Set(Object.keys(attrs));
  const pending = [...axes];
  while (pending.length > 0) {
    const at = pending.findIndex((axis) => axisExpression(declaration, axis, known) !== undefined);
    if (at < 0) throw new Error(`${name}: cannot derive ${pending.join(', ')}`);
    const [axis] = pending.splice(at, 1) as [string];
    decode.push(`a.${axis} = ${axisExpression(declaration, axis, known)};`);
    known.add(axis);
  }
  const unused = [
    tensor === 0 ? 'tensors' : '',
    state === 0 ? 'states' : '',
    Object.keys(attrs).length === 0 ? 'attrs' : '',
  ];
  const parameter = (type: string, label: string): string => (unused.includes(label) ? type : `${type} ${label}`);
  return `struct ${pascal(name)} {
${[...fields, ...attrFields].join('\n')}
${axes.length > 0 ? `  int64_t ${axes.join(', ')};\n` : ''}
  static ${pascal(name)} decode(${parameter('const Tensor*', 'tensors')}, ${parameter('const StateView*', 'states')}, ${parameter('const int32_t*', 'attrs')}) {
    ${pascal(name)} a;
${decode.map((line) => `    ${line}`).join('\n')}
    return a;
  }
};
`;
}

function table(declaration: OpDeclaration): { operands: string; attrs: string } {
  const { name, inputs, outputs, attrs } = declaration;
  const axisList = [...Object.keys(attrs), ...axesOf(declaration)];
  const code = (axis: string): number => (axis === '2' ? kTwo : axisList.indexOf(axis));
  const rows = [
    ...Object.entries(inputs).map((e) => [...e, false] as const),
    ...Object.entries(outputs).map((e) => [...e, true] as const),
  ];
  const operandRows = rows.map(([key, operand, isOutput]) => {
    const axes = operand.axes.map((axis) => {
      const [left, right] = axis.split('*') as [string, string?];
      return right === undefined ? `{${code(left)}, ${kNone}}` : `{${code(left)}, ${code(right)}}`;
    });
    return `    {"${key}", OperandKind::${operand.kind}, ${operand.optional}, ${isOutput}, ${axes.length}, {${axes.join(', ')}}},`;
  });
  const attrRows = Object.entries(attrs).map(([key, type]) => {
    const kind = typeof type === 'object' ? 'enumeration' : type === 'bool' ? 'boolean' : type;
    return `    {"${key}", AttrKind::${kind}, ${typeof type === 'object' ? type.length : 0}},`;
  });
  return {
    operands: `inline constexpr OperandInfo k${pascal(name)}Operands[] = {\n${operandRows.join('\n')}\n};\n`,
    attrs:
      attrRows.length > 0 ? `inline constexpr AttrInfo k${pascal(name)}Attrs[] = {\n${attrRows.join('\n')}\n};\n` : '',
  };
}
const kNone = -1;
const kTwo = -2;

function opsHeader(): string {
  const structs = declarations.map(struct);
  const tables = declarations.map(table);
  const enumText = [...enums].map(([name, values]) => `enum class ${name} : int32_t { ${values.join(', ')} };`);
  const infos = declarations.map((declaration) => {
    const name = pascal(declaration.name);
    const attrs = Object.keys(declaration.attrs).length > 0 ? `k${name}Attrs` : 'std::span<const AttrInfo>{}';
    return `    {"${declaration.name}", k${name}Operands, ${attrs}, ${Object.keys(declaration.attrs).length + axesOf(declaration).length}},`;
  });
  return `// ${note}
// clang-format off
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "op_info.h"
#include "tensor.h"

namespace crosscurrent {

inline constexpr int32_t kSignatureHash = ${signatureHash};

enum class Opcode : int32_t { ${declarations.map(({ name }) => name).join(', ')} };

${enumText.join('\n')}

${structs.join('\n')}
${tables.map(({ operands, attrs }) => operands + attrs).join('')}
inline constexpr OpInfo kOps[] = {
${infos.join('\n')}
};

}  // namespace crosscurrent
`;
}

function kernelTable(backend: string, extension: string): string {
  const present = declarations.filter(({ name }) => existsSync(join(root, `native/${backend}/${name}.${extension}`)));
  const forward = present.map(({ name }) => `void ${name}(const ${pascal(name)}& a, Context& context);`);
  const rows = declarations.map(({ name }) =>
    present.some((other) => other.name === name) ? `    run<${pascal(name)}, ${name}>,` : `    nullptr,  // ${name}`,
  );
  return `// ${note}
// clang-format off
#pragma once

#include "../ops.gen.h"
#include "context.h"

namespace crosscurrent::${backend} {

${forward.join('\n')}

using Kernel = void (*)(const Tensor*, const StateView*, const int32_t*, Context&);

template <class Args, void (*function)(const Args&, Context&)>
void run(const Tensor* tensors, const StateView* states, const int32_t* attrs, Context& context) {
  function(Args::decode(tensors, states, attrs), context);
}

// By opcode; null where this backend has no kernel.
inline constexpr Kernel kKernels[] = {
${rows.join('\n')}
};

}  // namespace crosscurrent::${backend}
`;
}

function opcodesModule(): string {
  return `// ${note}
export const opcodes = {
${declarations.map(({ name }, i) => `  ${name}: ${i},`).join('\n')}
} as const;

/** Native code refuses a program made with other declarations than its own. */
export const signatureHash = ${signatureHash};
`;
}

const isRecurrent = ({ kind }: Operand): boolean => kind === 'conv' || kind === 'scan';
const kernelNames = new Set(readFileSync(join(root, 'src/kernels/index.ts'), 'utf8').match(/\w+/g));

function reference(): string {
  const sections = declarations.map((declaration) => {
    const source = readFileSync(join(root, `src/ops/${kebab(declaration.name)}.ts`), 'utf8');
    const comment = [...source.matchAll(/\/\*\*([\s\S]*?)\*\/\s*export const (\w+) = defineOp/g)][0]?.[1] ?? '';
    const text = comment
      .slice(comment.lastIndexOf('/**') + 1)
      .replace(/^\s*\* ?/gm, '')
      .trim();
    const body = text.replace(/^@throws (.*)$/gm, '**Throws** $1').replace(/^@see (.*)$/gm, '**See** $1');
    const row = (key: string, operand: Operand, role: string): string =>
      `| \`${key}\` | ${role}${operand.optional ? ', optional' : ''} | ${operand.kind} | ${isState(operand) ? '' : `[${operand.axes.join(', ').replaceAll('*', '·')}]`} |`;
    const attrRow = ([key, type]: [string, AttrType]): string =>
      `| \`${key}\` | attribute | ${typeof type === 'object' ? type.join(' / ') : type} | |`;
    const camel = (key: string): string => key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    const results = [
      ...Object.keys(declaration.outputs),
      ...Object.keys(declaration.inputs).filter((key) => isRecurrent(declaration.inputs[key] as Operand)),
    ];
    const operands = Object.keys(declaration.inputs).filter((key) => declaration.inputs[key]?.kind !== 'kv');
    const call = `const { ${results.map(camel).join(', ')} } = await ${camel(declaration.name)}({ ${[
      ...operands,
      ...Object.keys(declaration.attrs),
    ]
      .map(camel)
      .join(', ')} });`;
    const example = kernelNames.has(camel(declaration.name))
      ? `\nOn typed arrays ([kernels.md](kernels.md)):\n\n\`\`\`ts\n${call}\n\`\`\`\n`
      : '';
    return `## ${declaration.name}

${body}

| name | role | type | shape |
| --- | --- | --- | --- |
${[
  ...Object.entries(declaration.inputs).map(([key, operand]) => row(key, operand, 'input')),
  ...Object.entries(declaration.outputs).map(([key, operand]) => row(key, operand, 'output')),
  ...Object.entries(declaration.attrs).map(attrRow),
].join('\n')}
${example}`;
  });
  return `<!-- ${note} -->
# Ops

${sections.join('\n')}`;
}

const files: Record<string, string> = {
  'native/ops.gen.h': opsHeader(),
  'native/cpu/kernels.gen.h': kernelTable('cpu', 'cpp'),
  'src/ops/opcodes.gen.ts': opcodesModule(),
  'docs/ops.md': reference(),
};

let stale = 0;
for (const [path, text] of Object.entries(files)) {
  const full = join(root, path);
  if (existsSync(full) && readFileSync(full, 'utf8') === text) continue;
  if (process.argv.includes('--check')) {
    console.error(`${path} is not what scripts/gen.ts writes: run npm run gen`);
    stale++;
  } else {
    writeFileSync(full, text);
    console.log(`wrote ${path}`);
  }
}
process.exitCode = stale > 0 ? 1 : 0;
