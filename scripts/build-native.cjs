#!/usr/bin/env node
// Compiles the native addon into build/Release: with cmake-js on a clone, with plain CMake where the package is
// installed without a prebuilt binary that fits (`npx crosscurrent-build`; there cmake-js is absent).
const { spawn, spawnSync } = require('node:child_process');
const { existsSync } = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const bytesPerJob = 1.5 * 2 ** 30;
const linesOnFailure = 400;
const secondsBetweenLines = 5;

const say = (text) => process.stderr.write(`[crosscurrent] ${text}\n`);
const runs = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;

/** One sentence about what to install, or undefined where everything is here. */
function missingTools() {
  const missing = [];
  if (!runs('cmake')) missing.push('cmake');
  if (!(process.env.CXX ? runs(process.env.CXX.split(' ')[0]) : ['c++', 'g++', 'clang++'].some(runs))) {
    missing.push('a C++20 compiler');
  }
  if (!['ninja', 'make', 'gmake'].some(runs)) missing.push('ninja or make');
  if (missing.length === 0) return undefined;
  return `the native addon cannot be compiled: ${missing.join(', ')} not found; install with: ${installCommand()}`;
}

function installCommand() {
  if (process.platform === 'darwin') return 'xcode-select --install && brew install cmake ninja';
  const managers = {
    'apt-get': 'sudo apt-get install -y cmake ninja-build g++',
    dnf: 'sudo dnf install -y cmake ninja-build gcc-c++',
    apk: 'sudo apk add cmake ninja g++',
    pacman: 'sudo pacman -S cmake ninja gcc',
    zypper: 'sudo zypper install cmake ninja gcc-c++',
  };
  const found = Object.keys(managers).find(runs);
  return found ? managers[found] : 'the package manager of this system (cmake, ninja, g++)';
}

function jobs() {
  const memory = Math.min(os.totalmem(), process.constrainedMemory?.() || Number.POSITIVE_INFINITY);
  return Math.max(1, Math.min(os.availableParallelism(), Math.floor(memory / bytesPerJob)));
}

/** The commands to run, in order. Both ways are incremental. */
function commands(parallel) {
  let cmakeJs;
  try {
    cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [root] });
  } catch {
    return plainCommands(parallel);
  }
  return [[process.execPath, [cmakeJs, 'build', '-l', 'error', '-p', String(parallel)]]];
}

function plainCommands(parallel) {
  const build = path.join(root, 'build');
  const configure = [
    ...['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release'],
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(build, 'Release')}`,
  ];
  if (runs('ninja') && !existsSync(path.join(build, 'CMakeCache.txt'))) configure.push('-G', 'Ninja');
  return [
    ['cmake', configure],
    ['cmake', ['--build', build, '--parallel', String(parallel)]],
  ];
}

/** Rewrites one line on a terminal; elsewhere a line every few seconds. */
function progress() {
  const tty = process.stderr.isTTY;
  const start = Date.now();
  let last = start;
  let shown = false;
  return {
    update(state) {
      const seconds = Math.round((Date.now() - start) / 1000);
      if (tty) {
        process.stderr.write(`\r[crosscurrent] ${state}  ${seconds}s\x1b[K`);
        shown = true;
      } else if (Date.now() - last >= secondsBetweenLines * 1000) {
        last = Date.now();
        say(`${state}  ${seconds}s`);
      }
    },
    end() {
      if (shown) process.stderr.write('\n');
    },
  };
}

/** Resolves with the last lines of output when the command failed, with undefined when it worked. */
function run(command, args, onState) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, NINJA_STATUS: '[%f/%t] ' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const lines = [];
    let rest = '';
    const take = (chunk) => {
      const parts = (rest + chunk).split('\n');
      rest = parts.pop();
      for (const line of parts) {
        lines.push(line);
        const state = /^\[\s*(\d+\/\d+|\d+%)\]/.exec(line);
        if (state) onState(state[1]);
      }
      lines.splice(0, Math.max(0, lines.length - linesOnFailure));
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    child.on('error', (error) => resolve([String(error)]));
    child.on('close', (code) => resolve(code === 0 ? undefined : [...lines, rest]));
  });
}

/** Exit status. */
async function buildNative() {
  const hint = missingTools();
  if (hint) {
    say(hint);
    return 1;
  }
  const parallel = jobs();
  const start = Date.now();
  say(`compiling the native addon (Release, ${parallel} job${parallel === 1 ? '' : 's'})`);
  const line = progress();
  for (const [command, args] of commands(parallel)) {
    const failure = await run(command, args, line.update);
    if (failure) {
      line.end();
      process.stderr.write(`${failure.join('\n')}\n`);
      say(`"${path.basename(command)} ${args.join(' ')}" failed; its last lines are above`);
      return 1;
    }
  }
  line.end();
  say(`native addon ready in ${((Date.now() - start) / 1000).toFixed(1)}s`);
  return 0;
}

module.exports = { buildNative, say };

if (require.main === module) {
  buildNative().then((status) => {
    process.exitCode = status;
  });
}
