// Reads what `ptxas -v` says of each kernel and fails on spills to local memory.
//
//   nvcc … -Xptxas -v 2>&1 | node scripts/check-spills.mjs
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

// Kernels that may spill, with the most bytes stored: variants that no measured case runs, or spills outside the loop
// that matters. `mangled` is part of the mangled name.
const allowed = [
  // int4 streaming with 9 to 16 rows of x and 64 rows of W a block: outside the loop over k.
  { mangled: /stream_kernelINS0_11StreamShapeILi[48]ELb.ELb.ELi[34]ELi2E/, bytes: 72 },
  // int4 streaming with group 32 or zero points, 96 or 112 rows of W a block.
  { mangled: /stream_kernelINS0_11StreamShapeILi[48]ELb.ELb.ELi[67]ELi1E/, bytes: 40 },
  // Experts without up in prefill; experts with more than 16 of a step's tokens in decode: no measured case runs them.
  { mangled: /moe_sm90_kernelILb0ELb0E/, bytes: 12 },
  { mangled: /down_loopI.+ELi[28]ELi8E/, bytes: 88 },
];

const report =
  /Function properties for (\S+)\s+(?:ptxas info\s*:\s*)?(\d+) bytes stack frame, (\d+) bytes spill stores/g;

/** Prints what spills beyond what is allowed; whether all is well. A kernel compiled again replaces its line. */
export function checkSpills(log) {
  const kernels = new Map();
  let architecture = '';
  for (const line of log.replaceAll('\r', '').split(/(?=ptxas info)/)) {
    architecture = /for '(sm_\w+)'/.exec(line)?.[1] ?? architecture;
    for (const [, kernel, , stores] of line.matchAll(report)) kernels.set(`${architecture} ${kernel}`, Number(stores));
  }
  const spilling = [...kernels].filter(([kernel, bytes]) => {
    const limit = allowed.find(({ mangled }) => mangled.test(kernel))?.bytes ?? 0;
    return kernel.startsWith('sm_90a') && bytes > limit;
  });
  for (const [kernel, bytes] of spilling) console.log(`spills ${bytes} bytes: ${kernel}`);
  console.log(`${kernels.size - spilling.length} passed, ${spilling.length} failed`);
  return kernels.size > 0 && spilling.length === 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = checkSpills(readFileSync(0, 'utf8')) ? 0 : 1;
}
