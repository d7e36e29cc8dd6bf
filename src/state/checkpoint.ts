/** The recurrent states of a sequence at some length. Held once by who asked for it; each `hold` is answered by one `release`, and the last one frees it. */
export interface Checkpoint {
  readonly bytes: number;
  hold(): void;
  release(): void;
}
