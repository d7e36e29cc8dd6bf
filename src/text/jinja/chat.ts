import { CrosscurrentError } from '../../errors.js';
import type { ChatRequest, SpecialToken } from '../protocol.js';
export class ChatRenderer {
  constructor(private readonly templates: ReadonlyMap<string, string>, private readonly special: Readonly<Record<string, SpecialToken>>) {}
  render(_request: ChatRequest): string { throw new CrosscurrentError('MISSING_TEMPLATE', `${this.templates.size} ${this.special}`); }
}
