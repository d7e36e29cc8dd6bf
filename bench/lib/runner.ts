import { type ChildProcess, fork } from 'node:child_process';
import { setPriority } from 'node:os';
import { root } from './machine.js';

export interface Loaded {
  readonly loadMs: number;
  /** From the start of the process. */
  readonly sinceStartMs: number;
  readonly rssMB: number;
  readonly isa?: string;
}

/** Wall time, and the CPU time that the process used in it: on a busy machine the first contains the waiting. */
export interface Timing {
  readonly wallMs: number;
  readonly cpuMs: number;
}

export interface Measured {
  readonly prefill: Timing;
  readonly decode: Timing & { readonly tokens: number };
  readonly rssMB: number;
  readonly peakRssMB: number;
}

/** A runner in a process of its own, kept alive and asked in turn with others. */
export class Runner {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #open = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #next = 0;

  private constructor(name: string, child: ChildProcess) {
    this.name = name;
    this.#child = child;
    child.on('message', ({ id, value, error }: { id: number; value: never; error?: string }) => {
      const call = this.#open.get(id);
      this.#open.delete(id);
      if (error === undefined) call?.resolve(value);
      else call?.reject(new Error(`${name}: ${error}`));
    });
    child.on('exit', (code, signal) => {
      for (const { reject } of this.#open.values()) reject(new Error(`${name}: ended (${signal ?? code})`));
    });
  }

  /** `file` is relative to bench/. */
  static start(name: string, file: string): Runner {
    const child = fork(`${root}bench/${file}`, [], {
      execArgv: ['--expose-gc'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    try {
      setPriority(child.pid as number, -20);
    } catch {
      // needs a right that few have; all runners are then equal again
    }
    return new Runner(name, child);
  }

  load(options: { path: string; threads: number; context: number }): Promise<Loaded> {
    return this.#call('load', options);
  }

  measure(options: { prompt: number; tokens: number }): Promise<Measured> {
    return this.#call('measure', options);
  }

  stop(): void {
    if (this.#child.connected) this.#child.disconnect();
  }

  #call<T>(command: string, options: object): Promise<T> {
    const id = this.#next++;
    return new Promise<T>((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      this.#child.send({ id, command, options });
    });
  }
}
