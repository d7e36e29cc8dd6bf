import { mismatch } from '../errors.js';

/** Any axis of a tensor. */
const mostSize = 1 << 24;
const mostLayers = 512;
const mostExperts = 1024;

/** A model's `config.json`, or the same made from GGUF metadata: whatever keys its architecture has. */
export type RawConfig = Readonly<Record<string, unknown>>;

export interface RopeConfig {
  readonly type: 'default' | 'linear' | 'llama3' | 'yarn';
  readonly theta: number;
  /** Elements of a head that are rotated. */
  readonly dim: number;
  /** Pairs (2i, 2i + 1), as GGUF files of the Llama family are permuted, instead of (i, i + dim / 2). */
  readonly interleaved: boolean;
  readonly factor: number;
  readonly originalPositions: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  readonly attentionFactor: number | undefined;
  readonly mscale: number | undefined;
  readonly mscaleAllDim: number | undefined;
  readonly truncate: boolean;
  /** Divisors of the frequencies, where a file gives them one by one. */
  readonly factors: readonly number[] | undefined;
}

/**
 * Typed reading of a config with the key and what was there in every error. Several keys are spellings of one thing; the first present
 * counts. The keys of a nested text tower (`text_config`, `llm_config`) go before those around it.
 */
export class Config {
  readonly raw: RawConfig;

  constructor(raw: RawConfig) {
    this.raw = textTower(raw);
  }

  get modelType(): string {
    return this.string(['model_type']);
  }

  value(keys: string | readonly string[]): unknown {
    for (const key of typeof keys === 'string' ? [keys] : keys) {
      const value = this.raw[key];
      if (value !== undefined && value !== null) return value;
    }
    return undefined;
  }

  int(keys: string | readonly string[], fallback?: number): number {
    const value = this.value(keys) ?? fallback;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw this.#wrong(keys, 'an integer, 0 or more', value);
    return value;
  }

  /** A size, 1..`most`: what a hostile file says is not allocated before it is looked at. */
  size(keys: string | readonly string[], fallback?: number, most = mostSize): number {
    const value = this.int(keys, fallback);
    if (value < 1 || value > most) throw this.#wrong(keys, `a size, 1..${most}`, value);
    return value;
  }

  layers(keys: string | readonly string[] = 'num_hidden_layers'): number {
    return this.size(keys, undefined, mostLayers);
  }

  /** Experts of a layer; 0 for a dense one. */
  experts(keys: string | readonly string[], fallback: number): number {
    const value = this.int(keys, fallback);
    if (value > mostExperts) throw this.#wrong(keys, `0..${mostExperts}`, value);
    return value;
  }

  /** Positions a model was trained for. */
  positions(fallback: number): number {
    return Math.min(Math.max(this.int('max_position_embeddings', fallback), 1), 0x7fffffff);
  }

  number(keys: string | readonly string[], fallback?: number): number {
    const value = toNumber(this.value(keys) ?? fallback);
    if (value === undefined) throw this.#wrong(keys, 'a number', this.value(keys));
    return value;
  }

  /** Two numbers, smallest first. */
  range(keys: string | readonly string[]): [min: number, max: number] | undefined {
    const values = this.list(keys);
    if (values === undefined) return undefined;
    const [min, max] = values.map(toNumber);
    if (values.length !== 2 || min === undefined || max === undefined || min > max)
      throw this.#wrong(keys, 'two numbers, the smaller first', values);
    return [min, max];
  }

  bool(keys: string | readonly string[], fallback: boolean): boolean {
    const value = this.value(keys) ?? fallback;
    if (typeof value !== 'boolean') throw this.#wrong(keys, 'true or false', value);
    return value;
  }

  string(keys: string | readonly string[], fallback?: string): string {
    const value = this.value(keys) ?? fallback;
    if (typeof value !== 'string') throw this.#wrong(keys, 'a string', value);
    return value;
  }

  list(keys: string | readonly string[]): readonly unknown[] | undefined {
    const value = this.value(keys);
    if (value !== undefined && !Array.isArray(value)) throw this.#wrong(keys, 'a list', value);
    return value as readonly unknown[] | undefined;
  }

  /** A list of one name or number a layer. */
  perLayer(keys: string | readonly string[], layers: number): readonly (string | number)[] | undefined {
    const values = this.list(keys);
    const fits = values?.every((value) => typeof value === 'string' || typeof value === 'number') ?? true;
    if (values && (values.length < layers || !fits)) throw this.#wrong(keys, `${layers} names or numbers`, values);
    return values?.slice(0, layers) as readonly (string | number)[] | undefined;
  }

  /** Rotary settings in either spelling: `rope_parameters`, or `rope_theta` + `rope_scaling`. */
  rope(headDim: number, defaults: { theta?: number; partial?: number } = {}): RopeConfig {
    const nested = this.value(['rope_parameters', 'rope_scaling']) as RawConfig | undefined;
    const scaling = new Config({ ...this.raw, ...(typeof nested === 'object' ? nested : {}) });
    const type = scaling.string(['rope_type', 'type'], 'default');
    if (type !== 'default' && type !== 'linear' && type !== 'llama3' && type !== 'yarn')
      throw mismatch('UNSUPPORTED_FORMAT', 'config: rope_type', 'default, linear, llama3 or yarn', type);
    const partial = scaling.number(['partial_rotary_factor', 'rotary_pct'], defaults.partial ?? 1);
    const dim = scaling.size('rotary_dim', Math.max(Math.floor(headDim * partial), 1));
    if (dim > headDim || dim % 2 !== 0)
      throw this.#wrong(['rotary_dim', 'partial_rotary_factor'], `an even size, at most ${headDim}`, dim);
    const optional = (key: string): number | undefined =>
      scaling.value(key) === undefined ? undefined : scaling.number(key);
    return {
      type,
      theta: scaling.number('rope_theta', defaults.theta ?? 10000),
      dim,
      interleaved: this.bool('rope_interleaved', false),
      factor: scaling.number('factor', 1),
      originalPositions: scaling.number('original_max_position_embeddings', this.int('max_position_embeddings', 2048)),
      lowFreqFactor: scaling.number('low_freq_factor', 1),
      highFreqFactor: scaling.number('high_freq_factor', 4),
      betaFast: scaling.number('beta_fast', 32),
      betaSlow: scaling.number('beta_slow', 1),
      attentionFactor: optional('attention_factor'),
      mscale: optional('mscale'),
      mscaleAllDim: optional('mscale_all_dim'),
      truncate: scaling.bool('truncate', true),
      factors: this.list('rope_factors')?.map((factor) => toNumber(factor) ?? 1),
    };
  }

  #wrong(keys: string | readonly string[], expected: string, got: unknown): Error {
    const name = typeof keys === 'string' ? keys : keys.join(' or ');
    return mismatch('INVALID_FILE', `config: ${name}`, expected, got === undefined ? 'nothing' : got);
  }
}

function textTower(raw: RawConfig): RawConfig {
  const tower = raw.text_config ?? raw.llm_config;
  return typeof tower === 'object' && tower !== null ? { ...raw, ...(tower as RawConfig) } : raw;
}

/** 5.x writes infinities as `{ "__float__": "Infinity" }`. */
function toNumber(value: unknown): number | undefined {
  const number = typeof value === 'object' && value !== null && '__float__' in value ? Number(value.__float__) : value;
  return typeof number === 'number' && !Number.isNaN(number) ? number : undefined;
}
