// Continues a saved sequence in a process of its own: node --import tsx restore-child.ts <path>
import { readFile } from 'node:fs/promises';
import { load } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';

await using model = await load(tinyGguf, { context: 256, sequences: 2 });
await using sequence = await model.restore(await readFile(process.argv[2] as string));
const { ids } = await sequence.generate({ maxTokens: 10, ignoreEos: true, temperature: 0.8, seed: 5 }).completion();
process.stdout.write(JSON.stringify(ids));
