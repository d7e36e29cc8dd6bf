import { MessageChannel, SHARE_ENV, Worker, type WorkerOptions } from 'node:worker_threads';
import { CrosscurrentError } from '../errors.js';
import type { FromWorker, Replies, Request, ToWorker, WireError } from './protocol.js';

/**
 * The young generation is kept small, as garbage of encoding is best collected early; but smaller still, and building a tokenizer collects a hundred
 * times, by helper threads that the event loop then waits for. The old one is a bound that only a broken or gigantic tokenizer meets; it then
 * fails alone, as OUT_OF_MEMORY.
 */
const resourceLimits = { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 1024 };

// With streams of its own and no copy of the environment a worker takes half as long to construct (2 ms, on the event loop)
const options: WorkerOptions = { resourceLimits, execArgv: [], env: SHARE_ENV, stdout: true, stderr: true };

function startWorker(): Worker {
  if (!import.meta.url.endsWith('.ts')) return new Worker(new URL('./worker.js', import.meta.url), options);
  // Run from the sources (tests, tsx) there is no worker.js beside this file: tsx, a tool of development, loads worker.ts.
  const sources = new URL('./worker.ts', import.meta.url).href;
  const start = `import('tsx/esm/api').then((tsx) => { tsx.register(); return import('${sources}'); })`;
  return new Worker(start, { ...options, eval: true });
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** The one text worker of this process: started by the first tokenizer, ended with the last. */
export class TextWorker {
  private static current: TextWorker | undefined;
  private readonly worker = startWorker();
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private users = 0;
  private failure: CrosscurrentError | undefined;

  /** Makes node load what the first worker of a process needs on this side, a third of the time that `acquire` then takes. */
  static prepare(): void {
    if (TextWorker.current === undefined) new MessageChannel().port1.on('message', () => {}).close();
  }

  /** Each `acquire` is answered by one `release`. */
  static acquire(): TextWorker {
    if (TextWorker.current === undefined || TextWorker.current.failure) TextWorker.current = new TextWorker();
    TextWorker.current.users++;
    return TextWorker.current;
  }

  private constructor() {
    this.worker.on('message', (message: FromWorker) => this.settle(message));
    this.worker.on('error', (error) => this.fail(error));
    this.worker.on('exit', () => this.fail(undefined));
    // Idle, the worker does not keep the process alive
    this.worker.unref();
  }

  /** The worker has ended; what it held is gone and has to be opened again in another. */
  get hasFailed(): boolean {
    return this.failure !== undefined;
  }

  async release(): Promise<void> {
    this.users--;
    if (this.users > 0) return;
    if (TextWorker.current === this) TextWorker.current = undefined;
    await this.worker.terminate();
  }

  async ask<K extends Request['kind']>(
    request: Extract<Request, { kind: K }>,
    signal?: AbortSignal,
  ): Promise<Replies[K]> {
    signal?.throwIfAborted();
    if (this.failure) throw this.failure;
    const id = this.nextId++;
    const reply = new Promise<unknown>((resolve, reject) => this.pending.set(id, { resolve, reject }));
    const abort = () => {
      const waiting = this.pending.get(id);
      if (waiting === undefined) return;
      this.forget(id);
      this.post({ id, abort: true });
      waiting.reject(signal!.reason);
    };
    try {
      this.post({ id, request });
      signal?.addEventListener('abort', abort);
      if (this.pending.size === 1) this.worker.ref();
      return (await reply) as Replies[K];
    } catch (error) {
      this.forget(id);
      if (error instanceof DOMException && error.name === 'DataCloneError') {
        throw new CrosscurrentError('INVALID_ARGUMENT', `messages: expected plain data, got ${error.message}`, {
          cause: error,
        });
      }
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  private post(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private forget(id: number): void {
    this.pending.delete(id);
    if (this.pending.size === 0) this.worker.unref();
  }

  private settle(message: FromWorker): void {
    const waiting = this.pending.get(message.id);
    if (waiting === undefined) return;
    this.forget(message.id);
    if ('error' in message) waiting.reject(fromWire(message.error));
    else waiting.resolve(message.value);
  }

  private fail(error: (Error & { code?: string }) | undefined): void {
    if (this.failure) return;
    const isMemory = error?.code === 'ERR_WORKER_OUT_OF_MEMORY';
    this.failure = new CrosscurrentError(
      isMemory ? 'OUT_OF_MEMORY' : 'INTERNAL',
      isMemory
        ? `text worker: expected to stay within ${resourceLimits.maxOldGenerationSizeMb} MB, got more`
        : `text worker: ended (${error?.message ?? 'terminated'})`,
      { cause: error },
    );
    for (const id of [...this.pending.keys()]) {
      this.pending.get(id)?.reject(this.failure);
      this.forget(id);
    }
  }
}

function fromWire({ code, message, cause, ...details }: WireError): CrosscurrentError {
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(details)) if (value !== undefined) given[name] = value;
  if (cause !== undefined) given.cause = Object.assign(new Error(cause.message), { name: cause.name });
  return new CrosscurrentError(code, message, given);
}
