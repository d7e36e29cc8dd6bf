export { devices } from './devices.js';
export { type FileInfo, openBytes, openFile, type PackedStrings, TensorFile } from './file.js';
export type { JobOptions, Progress } from './job.js';
export { NativeProgram, parseProgram } from './program.js';
export { openSession, Session, type StepResult } from './session.js';
export type { Device, SessionBytes, SessionLimits, SessionOptions, TensorInfo } from './types.js';
export { loadWeights, NativeWeights } from './weights.js';
