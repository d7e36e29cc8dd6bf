// What prebuildify takes for node-gyp: `[--toolchain=FILE] rebuild --target=… --arch=… [--debug]`, run in the folder
// whose build/Release it then searches, becomes cmake-js. Incremental, although prebuildify says rebuild.
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const args = process.argv.slice(2);
const flag = (name) => args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3);

const options = ['-l', 'error', '-d', root, '-O', path.resolve('build'), '--CDCROSSCURRENT_PORTABLE=ON'];
options.push('-B', args.includes('--debug') ? 'Debug' : 'Release');
if (flag('arch')) options.push('-a', flag('arch'));
if (flag('toolchain')) options.push(`--CDCMAKE_TOOLCHAIN_FILE=${path.resolve(root, flag('toolchain'))}`);

// configure first: `build` alone drops options that the cache does not have yet.
for (const command of ['configure', 'build']) {
  const cmakeJs = [require.resolve('cmake-js/bin/cmake-js'), command, ...options];
  const { status } = spawnSync(process.execPath, cmakeJs, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
