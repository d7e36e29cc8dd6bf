import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');

/** Collects garbage now, so that what is measured next is what is held. */
export const collectGarbage = runInNewContext('gc') as () => void;
