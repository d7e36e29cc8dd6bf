import { devices } from '../native/index.js';
import { table } from './table.js';

export function devicesCommand(flags: { json?: boolean }): void {
  const list = devices();
  if (flags.json) process.stdout.write(`${JSON.stringify(list)}\n`);
  else
    for (const device of list)
      process.stdout.write(table(Object.entries(device).map(([key, value]) => [key, String(value)])));
}
