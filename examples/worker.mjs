// A worker for Kith's jobs, for Node.js 20 or newer, without dependencies.
//
//     KITH=http://127.0.0.1:8080 KITH_API_KEY=kith_... node examples/worker.mjs greetings
//
// It claims jobs of one queue, up to four at a time, renews their leases by heartbeats, and reports how each job ended.
// The API key needs the scope jobs.work. On SIGTERM or Ctrl-C the running jobs finish first. Add your own functions to
// handlers.

import { setTimeout as sleep } from "node:timers/promises";

const KITH = process.env.KITH ?? "http://127.0.0.1:8080";
const KEY = process.env.KITH_API_KEY;
const QUEUE = process.argv[2] ?? "default";
const CONCURRENCY = 4;
const LEASE_MS = 15_000;
const WAIT_MS = 5_000;

const stop = new AbortController();

/** The lease has expired or the job has ended: the server ignores further reports of this attempt. */
class Stale extends Error {}
/** Cancellation of the job was requested. */
class Cancelled extends Error {}

/** POSTs JSON and returns the JSON of the response. Retries if the server is unreachable or overloaded. */
async function call(path, body, signal) {
  for (const wait of [200, 1_000, 2_000, 5_000, 5_000, null]) {
    try {
      const response = await fetch(KITH + path, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` },
        body: JSON.stringify(body),
        signal: AbortSignal.any([AbortSignal.timeout(WAIT_MS + 10_000), ...(signal ? [signal] : [])]),
      });
      const text = await response.text();
      if (response.status === 409) throw new Stale(text);
      if (response.ok) return text ? JSON.parse(text) : null;
      if (wait === null || ![429, 503].includes(response.status)) {
        console.error(`${path}: ${response.status} ${text}`);
        process.exit(1);
      }
    } catch (error) {
      if (error instanceof Stale || signal?.aborted || wait === null) throw error;
    }
    await sleep(wait);
  }
}

/** A claimed job, as handlers see it. */
class Job {
  constructor(claimed) {
    Object.assign(this, claimed);
    this.cancelled = false;
  }

  report(action, fields = {}) {
    return call(`/api/v1/jobs/${this.id}/${action}`, { lease_token: this.lease_token, ...fields });
  }

  /** Reports progress. Throws Cancelled if cancellation was requested. */
  async progress(progress) {
    await this.report("progress", { progress });
    if (this.cancelled) throw new Cancelled();
  }

  log(line, level = "info") {
    return this.report("log", { line, level });
  }

  async heartbeat() {
    try {
      const { cancel_requested } = await this.report("heartbeat", { lease_ms: LEASE_MS });
      this.cancelled ||= cancel_requested;
    } catch (error) {
      this.cancelled ||= error instanceof Stale;
    }
  }
}

const handlers = {
  async greet(job) {
    if (!job.payload.name) throw new Error("the payload has no name");
    await job.log(`greeting ${job.payload.name}`);
    return { greeting: `Hello, ${job.payload.name}!` };
  },

  async count(job) {
    for (let n = 1; n <= job.payload.to; n++) await job.progress({ done: n, of: job.payload.to });
    return job.payload.to;
  },
};

async function run(job) {
  const heartbeats = setInterval(() => job.heartbeat(), LEASE_MS / 3);
  try {
    const handler = handlers[job.kind];
    if (handler) await job.report("complete", { result: await handler(job) });
    else await job.report("fail", { action: "discard", error: `this worker has no handler for ${job.kind}` });
  } catch (error) {
    if (error instanceof Stale) console.error(`the lease of job ${job.id} has expired`);
    else if (error instanceof Cancelled) await job.report("fail", { action: "cancel" });
    else await job.report("fail", { error: String(error) });
  } finally {
    clearInterval(heartbeats);
  }
}

for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stop.abort());
console.log(`working on ${QUEUE}`);
while (!stop.signal.aborted) {
  const request = { worker: "worker.mjs", limit: CONCURRENCY, lease_ms: LEASE_MS, wait_ms: WAIT_MS };
  const { jobs } = await call(`/api/v1/queues/${QUEUE}/claim`, request);
  await Promise.all(jobs.map((claimed) => run(new Job(claimed))));
}
