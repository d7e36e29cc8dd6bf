// What a published Linux binary may need and show. Elsewhere these tools do not exist and there is nothing to check.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const lines = (command, args) => execFileSync(command, args, { encoding: 'utf8' }).split('\n').filter(Boolean);
const allowedExports = new Set([
  'napi_register_module_v1',
  'node_api_module_get_api_version_v1',
  // The linker's own, from some linkers.
  ...['__bss_start', '_edata', '_end'],
]);

function expectNone(found, what) {
  if (found.length > 0) throw new Error(`${what}: ${found.slice(0, 20).join(', ')}`);
}

/** Versions of `GLIBC` or `GLIBCXX` symbols that the binary needs, oldest first. */
function versions(binary, library) {
  const pattern = new RegExp(`\\b${library}_(\\d+(?:\\.\\d+)*)`);
  const found = lines('objdump', ['-T', binary]).map((line) => pattern.exec(line)?.[1]);
  const collator = new Intl.Collator('en', { numeric: true });
  return [...new Set(found.filter(Boolean))].sort(collator.compare);
}

function levelObjects(build) {
  return readdirSync(build, { recursive: true, encoding: 'utf8' })
    .filter((name) => /native\/cpu\/[^/]*_(avx2|avxvnni|avx512vnni|dotprod)\.cpp\.o$/.test(name))
    .map((name) => join(build, name));
}

/** @returns {[string, () => string | undefined][]} */
export function binaryChecks(binary, build) {
  if (process.platform !== 'linux') return [];
  return [
    [
      'the binary exports the module entry alone',
      () => {
        const names = lines('nm', ['-D', '--defined-only', binary]).map((line) => line.split(' '));
        // Weak template and typeinfo symbols of std are there in any C++ library.
        const extra = names.filter(([, kind, name]) => !allowedExports.has(name) && !/^[WVu]$/.test(kind));
        expectNone(
          extra.map(([, , name]) => name),
          'exported',
        );
      },
    ],
    [
      'the binary needs no libstdc++',
      () => {
        expectNone(versions(binary, 'GLIBCXX'), 'needs GLIBCXX');
        return `glibc floor ${versions(binary, 'GLIBC').at(-1)}`;
      },
    ],
    [
      'objects of one CPU level hold no weak symbols',
      () => {
        // The linker keeps any one copy of a weak symbol: it could run AVX-512 code on a CPU without it.
        const objects = levelObjects(build);
        expectNone(
          objects.flatMap((object) => lines('nm', ['-C', object]).filter((line) => / [WVu] /.test(line))),
          'weak',
        );
        return `${objects.length} objects`;
      },
    ],
  ];
}
