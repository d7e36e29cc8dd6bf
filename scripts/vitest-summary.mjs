// Sums up a JSON report of vitest in one line. A file that could not even be loaded counts as one failure.
import { existsSync, readFileSync } from 'node:fs';

const file = process.argv[2];
const report = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
const unloaded = (report?.testResults ?? []).filter(
  ({ status, assertionResults }) =>
    status === 'failed' && !assertionResults.some((result) => result.status === 'failed'),
);
const failed = report ? report.numFailedTests + unloaded.length : 1;
for (const { assertionResults } of report?.testResults ?? []) {
  for (const { fullName, status } of assertionResults) {
    if (status === 'pending' || status === 'skipped') console.log(`skipped: ${fullName}`);
  }
}
console.log(`${report?.numPassedTests ?? 0} passed, ${failed} failed`);
