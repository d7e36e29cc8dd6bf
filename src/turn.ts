/** Lets the event loop run what has waited. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
