// `npm run prebuildify [-- --toolchain=scripts/sysroot.cmake]`: prebuilds/<platform>-<arch>/crosscurrent[.<libc>].node
//
// A binary linked on this machine needs this machine's glibc or a newer one (2.35 or 2.36 on Debian 12, and a
// static libstdc++ does not lower it). For releases, build against the older glibc of a sysroot: scripts/sysroot.sh
// makes one, the toolchain file uses it, and the binary then runs from glibc 2.29 up.
const { mkdirSync } = require('node:fs');
const path = require('node:path');
const prebuildify = require('prebuildify');

const root = path.resolve(__dirname, '..');
// A folder of its own: prebuildify moves the binary out of <cwd>/build/Release, where the clone keeps its addon.
const cwd = path.join(root, 'build-prebuild');
const toolchain = process.argv.slice(2).find((arg) => arg.startsWith('--toolchain='));
const nodeGyp = [process.execPath, path.join(__dirname, 'node-gyp-shim.cjs'), ...(toolchain ? [toolchain] : [])];

mkdirSync(cwd, { recursive: true });
prebuildify(
  {
    cwd,
    out: root,
    name: 'crosscurrent',
    napi: true,
    strip: process.platform !== 'win32',
    tagLibc: process.platform === 'linux',
    targets: [],
    shell: true, // "node shim" is then a command on every platform
    nodeGyp: nodeGyp.map((part) => `"${part}"`).join(' '),
  },
  (error) => {
    if (!error) return;
    console.error(error);
    process.exit(1);
  },
);
