import { fileURLToPath } from 'node:url';

export const path = fileURLToPath(new URL('./crosscurrent-tiny.Q4_1.gguf', import.meta.url));
