import { addon } from './addon.js';
import type { Device } from './types.js';

/** What this machine can run models on, best first. */
export function devices(): Device[] {
  return addon().devices();
}
