// What prebuildify takes for node-gyp: `[--toolchain=FILE] rebuild --target=… --arch=… [--debug]` becomes cmake-js.
// prebuildify then takes the first .node of build/Release. Objects stay in build-prebuild, beside the build of
// the clone, so neither makes the other start from nothing.
const { spawnSync } = require('node:child_process');
const { copyFileSync, mkdirSync } = require('node:fs');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const args = process.argv.slice(2);
const flag = (name) => args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3);
const config = args.includes('--debug') ? 'Debug' : 'Release';

const options = ['-l', 'error', '-B', config, '-O', path.join(root, 'build-prebuild'), '--CDCROSSCURRENT_PORTABLE=ON'];
if (flag('arch')) options.push('-a', flag('arch'));
if (flag('toolchain')) options.push(`--CDCMAKE_TOOLCHAIN_FILE=${path.resolve(root, flag('toolchain'))}`);

// configure first: `build` alone drops options that the cache does not have yet.
for (const command of ['configure', 'build']) {
  const { status } = spawnSync(process.execPath, [require.resolve('cmake-js/bin/cmake-js'), command, ...options], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
const target = path.join(root, 'build', config);
mkdirSync(target, { recursive: true });
copyFileSync(path.join(root, 'build-prebuild', config, 'crosscurrent.node'), path.join(target, 'crosscurrent.node'));
