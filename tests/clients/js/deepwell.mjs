// What every script needs: where Deepwell is, and a way to hand the results to the test that runs it.
export const { DEEPWELL_URL, DEEPWELL_KEY, DEEPWELL_MODEL, DEEPWELL_PLAIN, DEEPWELL_EMBEDDER, DEEPWELL_QUESTION } = process.env;

export async function report(checks) {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      results[name] = await check();
    } catch (error) {
      results[name] = { error: String(error?.stack ?? error) };
    }
  }
  process.stdout.write(JSON.stringify(results));
}

export async function collect(stream, read) {
  let text = "";
  for await (const part of stream) text += read(part) ?? "";
  return text;
}
