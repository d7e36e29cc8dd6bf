/** Absolute path of the model file, for `load()` of crosscurrent or any other reader of GGUF. */
export declare const path: string;
