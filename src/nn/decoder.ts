import type { Tensor } from '../graph/tensor.js';
import { turn } from '../turn.js';
import type { Weights } from '../weights/weights.js';
import { embed, head, norm } from './layers.js';

export interface DecoderConfig {
  readonly vocab: number;
  readonly dim: number;
  readonly eps: number;
  readonly tied: boolean | undefined;
  readonly layers: readonly string[];
}

/** Names of the outer parts of a checkpoint; those of the Llama family where absent. */
export interface DecoderNames {
  readonly root?: string;
  readonly embedding?: string;
  readonly norm?: string;
  /** Factor on the embedding. */
  readonly embeddingScale?: number;
  /** Factor on the logits. */
  readonly logitsScale?: number;
}

type Layer = (h: Tensor) => Tensor;

/**
 * The outside of a decoder-only model: embedding, `layer(i)` for each layer, norm, head. Names `hidden.0` (the embedding), `hidden.i + 1` (after
 * layer i) and `final_norm` for `session.trace()`.
 */
export function decoder(
  weights: Weights,
  config: DecoderConfig,
  names: DecoderNames,
  layer: (weights: Weights, i: number) => Layer | Promise<Layer>,
): (ids: Tensor) => Promise<Tensor> {
  const { graph } = weights;
  const { vocab, dim, eps, tied } = config;
  const { root = 'model', embedding = 'embed_tokens' } = names;
  const model = weights.at(root);
  const embedded = embed(model, embedding, vocab, dim, names.embeddingScale);
  const finalNorm = norm(model, names.norm ?? 'norm', dim, eps);
  const logits = head(weights, {
    name: 'lm_head',
    tiedTo: `${root}.${embedding}`,
    tied,
    vocab,
    dim,
    scale: names.logitsScale ?? 1,
  });

  return async (ids) => {
    let h = graph.label('hidden.0', embedded(ids)); // [t, dim]
    for (const i of config.layers.keys()) {
      // code that runs for the first time takes milliseconds, and a deep model takes longer than the event loop may wait
      const forward = await layer(model.at('layers', i), i);
      await turn();
      h = graph.label(`hidden.${i + 1}`, forward(h));
      await turn();
    }
    return logits(graph.label('final_norm', finalNorm(h))); // [rows, vocab]
  };
}
