// A worker for Kith's jobs, in JavaScript for Node 20 or newer, without any package.
//
//     KITH=http://127.0.0.1:8080 KITH_API_KEY=kith_... node examples/worker.mjs greetings
//
// It takes jobs out of one queue, four at a time, says every few seconds that it lives, and how each job ended. The key
// needs the scope jobs.work. SIGTERM and Ctrl-C let the jobs that run finish. Put functions of your own into handlers.

import { setTimeout as sleep } from "node:timers/promises";

const KITH = process.env.KITH ?? "http://127.0.0.1:8080";
const KEY = process.env.KITH_API_KEY;
const QUEUE = process.argv[2] ?? "default";
const AT_ONCE = 4;
const LEASE_MS = 15_000;
const WAIT_MS = 5_000;

const stop = new AbortController();

/** The job is somebody else's by now, or has ended: nothing that is said of it counts any more. */
class Stale extends Error {}
/** Somebody wants the job to stop. */
class Cancelled extends Error {}

/** POSTs JSON, and returns the answer's. A server that is not there, or has too much to do, is asked again. */
async function call(path, body, signal) {
  for (const wait of [200, 1_000, 2_000, 5_000, 5_000, null]) {
    try {
      const answer = await fetch(KITH + path, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` },
        body: JSON.stringify(body),
        signal: AbortSignal.any([AbortSignal.timeout(WAIT_MS + 10_000), ...(signal ? [signal] : [])]),
      });
      const text = await answer.text();
      if (answer.status === 409) throw new Stale(text);
      if (answer.ok) return text ? JSON.parse(text) : null;
      if (wait === null || ![429, 503].includes(answer.status)) {
        console.error(`${path}: ${answer.status} ${text}`);
        process.exit(1);
      }
    } catch (error) {
      if (error instanceof Stale || signal?.aborted || wait === null) throw error;
    }
    await sleep(wait);
  }
}

/** A job that was taken, as its function sees it. */
class Job {
  constructor(claimed) {
    Object.assign(this, claimed);
    this.cancelled = false;
  }

  say(word, more = {}) {
    return call(`/api/v1/jobs/${this.id}/${word}`, { lease_token: this.lease_token, ...more });
  }

  /** Says how far it is; stops it if somebody wants that. */
  async progress(progress) {
    await this.say("progress", { progress });
    if (this.cancelled) throw new Cancelled();
  }

  log(line, level = "info") {
    return this.say("log", { line, level });
  }

  async beat() {
    try {
      const { cancel_requested } = await this.say("heartbeat", { lease_ms: LEASE_MS });
      this.cancelled ||= cancel_requested;
    } catch (error) {
      this.cancelled ||= error instanceof Stale;
    }
  }
}

const handlers = {
  async greet(job) {
    if (!job.payload.name) throw new Error("there is nobody to greet");
    await job.log(`greeting ${job.payload.name}`);
    return { greeting: `Hello, ${job.payload.name}!` };
  },

  async count(job) {
    for (let n = 1; n <= job.payload.to; n++) await job.progress({ done: n, of: job.payload.to });
    return job.payload.to;
  },
};

async function run(job) {
  const heart = setInterval(() => job.beat(), LEASE_MS / 3);
  try {
    const handler = handlers[job.kind];
    if (handler) await job.say("complete", { result: await handler(job) });
    else await job.say("fail", { action: "discard", error: `nobody here does ${job.kind}` });
  } catch (error) {
    if (error instanceof Stale) console.error(`job ${job.id} is somebody else's by now`);
    else if (error instanceof Cancelled) await job.say("fail", { action: "cancel" });
    else await job.say("fail", { error: String(error) });
  } finally {
    clearInterval(heart);
  }
}

for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stop.abort());
console.log(`working on ${QUEUE}`);
while (!stop.signal.aborted) {
  const asked = { worker: "worker.mjs", limit: AT_ONCE, lease_ms: LEASE_MS, wait_ms: WAIT_MS };
  const { jobs } = await call(`/api/v1/queues/${QUEUE}/claim`, asked);
  await Promise.all(jobs.map((claimed) => run(new Job(claimed))));
}
