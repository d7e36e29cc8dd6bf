export type { ChatMessage, ChatOptions, DecodeOptions, EncodeOptions } from './tokenizer.js';
export { openTokenizer, Tokenizer } from './tokenizer.js';
export type { SpecialToken } from './protocol.js';
export type { TokenizerSource } from './sources.js';
export { type StreamOptions, TokenStream } from './stream.js';
