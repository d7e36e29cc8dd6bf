import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setPriority } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CrosscurrentError, errorCodes } from '../errors.js';
import type { KvType } from '../ops/flash-attention.js';
import type { SentError } from './bench-serve.js';

export interface Loaded {
  readonly loadMs: number;
  /** From the start of the process. */
  readonly sinceStartMs: number;
  readonly rssMB: number;
  readonly peakRssMB: number;
  readonly isa?: string;
}

/** Wall time, and the CPU time that the process used in it: on a busy machine the first contains the waiting. */
export interface PhaseTime {
  readonly wallMs: number;
  readonly cpuMs: number;
}

export interface Measured {
  readonly prefill: PhaseTime;
  readonly decode: PhaseTime & { readonly tokens: number };
  readonly rssMB: number;
  readonly peakRssMB: number;
}

export interface ModelOptions {
  readonly path: string;
  readonly threads: number;
  readonly context: number;
  /** Level of the kernels: of ours alone. */
  readonly isa?: string;
  /** Type of the cache: of ours alone. */
  readonly kv?: KvType;
}

export type RunnerName = 'crosscurrent' | 'node-llama-cpp' | 'onnxruntime-node';

const thisFile = new URL(import.meta.url);
const packageRoot = fileURLToPath(new URL('../../', thisFile));

/** Where peers are looked for: in the current project, then beside the benchmarks of a clone. */
const peerFolders = (): string[] => [process.cwd(), `${packageRoot}bench/peers`].filter((folder) => existsSync(folder));

export interface RunnerOptions {
  /** Of this package, the compiled files to run; those that this file belongs to unless given. */
  readonly childUrl?: URL;
}

function typed({ message, code, ...details }: SentError): Error {
  const known = errorCodes.find((one) => one === code);
  if (!known) return new Error(message);
  const given = Object.entries(details).filter(([, value]) => value !== undefined);
  return new CrosscurrentError(known, message, Object.fromEntries(given));
}

interface Call {
  resolve(value: never): void;
  reject(error: Error): void;
}

/** A runner in a process of its own, kept alive and asked in turn with others. */
export class Runner {
  readonly name: RunnerName;
  readonly #child: ChildProcess;
  readonly #open = new Map<number, Call>();
  #next = 0;

  private constructor(name: RunnerName, child: ChildProcess) {
    this.name = name;
    this.#child = child;
    child.on('message', ({ id, value, error }: { id: number; value: never; error?: SentError }) => {
      const call = this.#open.get(id);
      this.#open.delete(id);
      if (error === undefined) call?.resolve(value);
      else call?.reject(name === 'crosscurrent' ? typed(error) : new Error(`${name}: ${error.message}`));
    });
    child.on('exit', (code, signal) => {
      for (const { reject } of this.#open.values()) reject(new Error(`${name}: ended (${signal ?? code})`));
    });
  }

  /** Starts it, or says in a few words why it cannot be had: a peer may well not be installed. */
  static async start(name: RunnerName, options: RunnerOptions = {}): Promise<Runner | string> {
    if (name === 'crosscurrent') return Runner.#startIn(name, process.cwd(), options);
    let reason = 'not installed';
    for (const folder of peerFolders()) {
      const runner = await Runner.#startIn(name, folder, options);
      if (typeof runner !== 'string') return runner;
      if (runner !== '') reason = runner;
    }
    return reason;
  }

  /** A process whose own packages are those that `folder` sees; the empty string where the peer is not among them. */
  static async #startIn(name: RunnerName, folder: string, { childUrl }: RunnerOptions): Promise<Runner | string> {
    const extension = extname(thisFile.pathname);
    const url = childUrl ?? new URL(`./bench-child${extension}`, thisFile);
    // what loads TypeScript here has to do it there, and would only slow down JavaScript
    const loader = url.pathname.endsWith('.ts') ? process.execArgv : [];
    const code = `(await import(${JSON.stringify(url.href)})).main(${JSON.stringify(name)}, (name) => import(name))`;
    const child = spawn(process.execPath, [...loader, '--input-type=module', '--eval', code], {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const failed = await new Promise<string | undefined>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('exit', (status, signal) => resolve(`ended (${signal ?? status})`));
      child.once('message', (message: { ready: boolean; reason?: string }) =>
        resolve(message.ready ? undefined : (message.reason ?? 'failed')),
      );
    });
    if (failed === undefined) return new Runner(name, child);
    if (child.connected) child.disconnect();
    return failed;
  }

  /** Models all run in processes of their own, before all others where the system lets them. */
  load(options: ModelOptions): Promise<Loaded> {
    try {
      setPriority(this.#child.pid as number, -20);
    } catch {
      // needs a right that few have; all runners are then equal again
    }
    return this.call('load', options);
  }

  measure(options: { prompt: number; tokens: number }): Promise<Measured> {
    return this.call('measure', options);
  }

  call<T>(command: string, options: object): Promise<T> {
    const id = this.#next++;
    return new Promise<T>((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      this.#child.send({ id, command, options }, (error) => {
        if (!error) return;
        this.#open.delete(id);
        reject(new Error(`${this.name}: ${error.message}`));
      });
    });
  }

  stop(): void {
    if (this.#child.connected) this.#child.disconnect();
  }
}
