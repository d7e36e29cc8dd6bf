#!/usr/bin/env node
import { Command, InvalidArgumentError, Option } from 'commander';
import { CrosscurrentError } from '../errors.js';
import { kvTypes } from '../ops/flash-attention.js';
import { version } from '../version.js';
import { benchCommand } from './bench.js';
import { chat } from './chat.js';
import { checkCommand } from './check.js';
import { devicesCommand } from './devices.js';
import { generate } from './generate.js';
import { inspectCommand } from './inspect.js';

const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError('Not a number.');
  return value;
};
const integer = (text: string): number => {
  const value = number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError('Not a whole number, 0 or more.');
  return value;
};

const kvOption = (): Option =>
  new Option('--kv <type>', 'what the attention cache keeps (default: f32)').choices(kvTypes);

/** Options that both `generate` and `chat` take. */
function withModelOptions(command: Command): Command {
  return command
    .option('-m, --model <path>', 'a .gguf file or a folder with config.json (default: the model that ships)')
    .option('-n, --max-tokens <n>', 'most tokens of an answer', integer)
    .option('--temperature <x>', '0 takes the likeliest token', number)
    .option('--top-k <n>', 'only the n likeliest tokens', integer)
    .option('--top-p <x>', 'only the likeliest tokens that make up this probability', number)
    .option('--min-p <x>', 'only tokens at least this likely beside the likeliest', number)
    .option('--repetition-penalty <x>', 'above 1: fewer repetitions', number)
    .option('--seed <n>', 'makes sampling reproducible', integer)
    .option('--context <n>', 'most tokens of prompt and answer together', integer)
    .option(
      '--speculate <drafter>',
      'tiny, lookup, lookahead, self:<layers>, none, or the path of a smaller model with the same tokenizer',
    )
    .option('--threads <n>', 'threads of a step', integer)
    .option('--isa <level>', 'instruction-set level of the kernels; `devices` lists them')
    .addOption(new Option('--activations <mode>', 'precision of activations').choices(['fast', 'exact']))
    .addOption(kvOption());
}

const program = new Command('crosscurrent')
  .description('Hybrid Transformer-SSM language models inside Node.js')
  .version(version)
  .showHelpAfterError();

withModelOptions(program.command('generate'))
  .description('write the answer to a prompt')
  .argument('[prompt]', 'the prompt; read from standard input when piped')
  .option('--raw', 'continue the prompt as it is, without a chat template')
  .option('--json', 'one JSON object: text, ids, promptIds, stats')
  .action(generate);

withModelOptions(program.command('chat'))
  .description('talk with a model, a line at a time')
  .option('--system <text>', 'the system message')
  .action(chat);

program
  .command('inspect')
  .description('what a model is and what memory it takes; nothing is loaded')
  .argument('[path]', 'a .gguf file or a folder with config.json (default: the model that ships)')
  .option('--context <n>', 'plan memory for this many tokens', integer)
  .addOption(kvOption())
  .option('--program', 'print the program, one line an op')
  .option('--json', 'one JSON object')
  .action(inspectCommand);

program
  .command('devices')
  .description('what models can run on here')
  .option('--json', 'one JSON array')
  .action(devicesCommand);

program
  .command('check')
  .description('hold every kernel of this machine against its formula in f64, at every level')
  .argument('[op...]', 'only these')
  .option('--threads <n>', 'most threads', integer)
  .option('--json', 'one JSON object')
  .action(checkCommand);

program
  .command('bench')
  .description('time the kernels on sizes of models, or a model')
  .argument('[op...]', 'only these kernels')
  .option('-m, --model <path>', 'a model instead of kernels: a prompt of 512 tokens and 64 after it')
  .option('--peers', 'in turns with onnxruntime-node, or node-llama-cpp on a model, where installed')
  .option('--threads <n>', 'most threads', integer)
  .option('--isa <level>', 'level of the kernels (`devices` lists them)')
  .option('--seconds <x>', 'time for a kernel (default: 0.5)', number)
  .addOption(kvOption())
  .option('--rounds <n>', 'measurements of a model (default: 7)', integer)
  .option('--json <file>', 'write the results there')
  .action(benchCommand);

// `crosscurrent generate … | head` closes the pipe early: nobody is left to write for
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CrosscurrentError) process.stderr.write(`crosscurrent: ${error.message} (${error.code})\n`);
  else
    process.stderr.write(`crosscurrent: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 1;
}
