import { CrosscurrentError } from '../errors.js';
import { addon } from './addon.js';
import type { ControlHandle } from './types.js';

export interface Progress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface JobOptions {
  signal?: AbortSignal;
  /** Called at most 20 times a second, and at the end. */
  onProgress?: (progress: Progress) => void;
}

const progressMilliseconds = 50;

/**
 * Runs a native job that `signal` cancels.
 *
 * @throws The reason of `signal`, what `onProgress` threw, or the job's own error.
 */
export async function runJob<T>(
  { signal, onProgress }: JobOptions,
  start: (control: ControlHandle | undefined) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  if (!signal && !onProgress) return start(undefined);
  const native = addon();
  const control = native.newControl();
  const cancel = () => native.cancel(control);
  const progress = onProgress && pollProgress(control, onProgress, cancel);
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    const result = await start(control);
    progress?.finish();
    return result;
  } catch (error) {
    const wasAborted = error instanceof CrosscurrentError && error.code === 'ABORTED';
    if (wasAborted && progress?.failure) throw progress.failure.error;
    if (wasAborted && signal?.aborted) throw signal.reason;
    throw error;
  } finally {
    progress?.stop();
    signal?.removeEventListener('abort', cancel);
  }
}

/** An exception of `report` cancels the job, which then fails with it. */
function pollProgress(control: ControlHandle, report: (progress: Progress) => void, cancel: () => void) {
  let reported = -1;
  const tell = () => {
    const [doneBytes, totalBytes] = addon().progress(control);
    if (totalBytes === 0 || doneBytes === reported) return;
    reported = doneBytes;
    report({ doneBytes, totalBytes });
  };
  const poller = {
    failure: undefined as { error: unknown } | undefined,
    finish: tell,
    stop: () => clearInterval(timer),
  };
  const timer = setInterval(() => {
    try {
      tell();
    } catch (error) {
      poller.failure = { error };
      poller.stop();
      cancel();
    }
  }, progressMilliseconds);
  timer.unref();
  return poller;
}
