import { addon } from './addon.js';
import type { Device } from './types.js';

/** What this machine can run models on, best first. */
export function devices(): Device[] {
  return addon().devices();
}

/** Forces a level of the CPU kernels for the whole process; without one, returns to the best. */
export function setIsa(level?: string): void {
  addon().setIsa(level);
}
