// What an OpenAI user's script does, with OpenAI's client for node: node client.mjs CLIENT BASE_URL MODEL
import assert from "node:assert/strict";

const { default: OpenAI, toFile } = await import(process.argv[2]);
const client = new OpenAI({ baseURL: process.argv[3], apiKey: "unused", maxRetries: 0 });
const model = process.argv[4];
const lines = (rows) => toFile(Buffer.from(rows.map((row) => JSON.stringify(row)).join("\n")), "rows.jsonl");
const said = (n) => ({ messages: [{ role: "user", content: `say ${n}` }, { role: "assistant", content: `aa${n}` }] });
const numbers = [...Array(8).keys()];

async function finished(id, states = ["succeeded", "failed", "cancelled"]) {
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if (states.includes(job.status)) return job;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const file = await client.files.create({
  file: await lines(numbers.map(said)), purpose: "fine-tune", expires_after: { anchor: "created_at", seconds: 3600 } });
assert.equal(file.expires_at, file.created_at + 3600);
const supervised = { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } };
let job = await client.fineTuning.jobs.create({ model, training_file: file.id, suffix: "node", method: supervised });
job = await finished(job.id);
assert.equal(job.status, "succeeded", JSON.stringify(job.error));

const messages = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 3 })) messages.push(event.message);
assert.equal(messages[0], "The job has successfully completed");
assert.equal(messages.filter((m) => m.startsWith("Step ")).length, 4);
const steps = [];
for await (const point of client.fineTuning.jobs.checkpoints.list(job.id)) steps.push(point.step_number);
assert.deepEqual(steps, [4, 2]);
const csv = await (await client.files.content(job.result_files[0])).text();
assert.equal(csv.trim().split("\n").length, 5);

const ask = { model: job.fine_tuned_model, messages: [{ role: "user", content: "say 3" }], max_tokens: 4 };
assert.equal((await client.chat.completions.create(ask)).model, job.fine_tuned_model);
let streamed = 0;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) streamed += chunk.choices.length;
assert.ok(streamed > 1);

const pairs = numbers.map((n) => ({
  input: { messages: [{ role: "user", content: `say ${n}` }] },
  preferred_output: [{ role: "assistant", content: "aaa" }], non_preferred_output: [{ role: "assistant", content: "b" }] }));
let dpo = await client.fineTuning.jobs.create({
  model: job.fine_tuned_model, training_file: (await client.files.create({ file: await lines(pairs), purpose: "fine-tune" })).id,
  method: { type: "dpo", dpo: { hyperparameters: { n_epochs: 1, batch_size: 4, beta: 0.1 } } } });
dpo = await finished(dpo.id);
assert.equal(dpo.status, "succeeded", JSON.stringify(dpo.error));

const held = await client.fineTuning.jobs.create({ model, training_file: file.id, method: supervised });
assert.equal((await client.fineTuning.jobs.pause(held.id)).status, "paused");
await client.fineTuning.jobs.resume(held.id);
assert.equal((await finished(held.id)).status, "succeeded");
const gone = await client.fineTuning.jobs.create({ model, training_file: file.id, method: supervised });
assert.equal((await client.fineTuning.jobs.cancel(gone.id)).status, "cancelled");

const upload = await client.uploads.create({ filename: "u.jsonl", purpose: "fine-tune", bytes: 6, mime_type: "text/jsonl" });
const parts = [];
for (const text of ["abc", "def"]) {
  parts.push((await client.uploads.parts.create(upload.id, { data: await toFile(Buffer.from(text), "part") })).id);
}
assert.equal((await client.uploads.complete(upload.id, { part_ids: parts })).file.bytes, 6);

const bad = await client.files.create({ file: await toFile(Buffer.from("{"), "bad.jsonl"), purpose: "fine-tune" });
const failed = await finished((await client.fineTuning.jobs.create({ model, training_file: bad.id })).id);
assert.equal(failed.error.param, "training_file");
await assert.rejects(client.fineTuning.jobs.retrieve("ftjob-none"), (e) => e.status === 404 && e.code === "fine_tune_not_found");
await assert.rejects(client.fineTuning.jobs.create({ model: "gpt-9", training_file: file.id }), (e) => e.status === 400 && e.param === "model");
let count = 0;
for await (const one of client.fineTuning.jobs.list({ limit: 2 })) count += one.id.startsWith("ftjob-");
assert.ok(count >= 5);
assert.equal((await client.files.delete(file.id)).deleted, true);
assert.equal((await client.models.delete(job.fine_tuned_model)).deleted, true);
console.log("all of it");
