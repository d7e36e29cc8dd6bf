/** Stable error codes. Native code throws the first group (`native/error.h`), TypeScript any of them. */
export const errorCodes = [
  'INVALID_ARGUMENT',
  'INVALID_FILE',
  'UNSUPPORTED_FORMAT',
  'IO',
  'FILE_CHANGED',
  'MISSING_TENSORS',
  'INVALID_PROGRAM',
  'MISSING_KERNEL',
  'INVALID_STATE',
  'TOKEN_OUT_OF_RANGE',
  'CONTEXT_OVERFLOW',
  'OUT_OF_MEMORY',
  'DEVICE_UNAVAILABLE',
  'DISPOSED',
  'ABORTED',
  'INTERNAL',
  // TypeScript only
  'UNSUPPORTED_ARCHITECTURE',
  'MISSING_TOKENIZER',
  'MISSING_TEMPLATE',
  'TEMPLATE_ERROR',
  'EMPTY_PROMPT',
  'DRAFTER_ERROR',
  'QUEUE_FULL',
  'NATIVE_NOT_FOUND',
] as const;

export type ErrorCode = (typeof errorCodes)[number];

export interface ErrorDetails {
  /** What was wrong: an option, an operand, a tensor, a file. */
  operand?: string;
  /** What would have been right. */
  expected?: string;
  /** What was there instead. */
  got?: string;
  cause?: unknown;
}

/**
 * Every error the library throws or rejects with, save the reason of an aborted signal.
 * `code` is stable; the message is for people and may change.
 */
export class CrosscurrentError extends Error {
  override readonly name = 'CrosscurrentError';
  readonly code: ErrorCode;
  readonly operand: string | undefined;
  readonly expected: string | undefined;
  readonly got: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.operand = details.operand;
    this.expected = details.expected;
    this.got = details.got;
  }
}

/** The common form: `<operand>: expected <expected>, got <got>`. */
export function mismatch(code: ErrorCode, operand: string, expected: string, got: unknown): CrosscurrentError {
  const shown = typeof got === 'string' ? got : (JSON.stringify(got) ?? String(got));
  return new CrosscurrentError(code, `${operand}: expected ${expected}, got ${shown}`, {
    operand,
    expected,
    got: shown,
  });
}
