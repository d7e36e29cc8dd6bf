// The sources as the package holds them, for tests that run them in processes of their own: plain JavaScript starts in
// a fifth of the time that a loader of TypeScript takes, and nothing of the loader is measured.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Writes the sources to a folder beside `dist` (the addon is looked for from there), and returns it. */
export function transpileSources(name: string): { readonly folder: string; remove(): void } {
  const folder = join(root, `build-test-${name}-${process.pid}`);
  const source = join(root, 'src');
  for (const path of readdirSync(source, { recursive: true, encoding: 'utf8' })) {
    if (!path.endsWith('.ts')) continue;
    const { outputText } = ts.transpileModule(readFileSync(join(source, path), 'utf8'), {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, verbatimModuleSyntax: true },
    });
    const out = join(folder, path.replace(/\.ts$/, '.js'));
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, outputText);
  }
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
