/** `npm run bench -- <name> [options]` runs bench/<name>.bench.ts. */
import { readdirSync } from 'node:fs';

const suffix = '.bench.ts';
const names = readdirSync(new URL('.', import.meta.url))
  .filter((file) => file.endsWith(suffix))
  .map((file) => file.slice(0, -suffix.length));
const [name, ...args] = process.argv.slice(2);

if (name === undefined || !names.includes(name)) {
  process.stderr.write(`npm run bench -- <${names.join(' | ')}> [options]\n`);
  process.exitCode = 2;
} else {
  const { main } = (await import(`./${name}${suffix}`)) as { main(args: string[]): Promise<void> };
  await main(args);
}
