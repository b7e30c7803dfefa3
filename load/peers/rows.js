// Benchmark rows for the compared job queues (peers). Each peer passes an object with its own operations to `measure`.

import { fork } from "node:child_process";
import { parseArgs } from "node:util";

/** Number of concurrent callers that enqueue. */
const CALLERS = 64;
/** Number of concurrent jobs per process. */
export const CONCURRENCY = 50;
/** Enqueue rate of the latency row, in jobs per second. */
const STEADY_PER_S = 500;
/** Poll interval for remaining jobs, in milliseconds. */
const LOOK_EVERY_MS = 10;
const WARM_UP = 2_000;

const { values: args } = parseArgs({
  options: {
    row: { type: "string" },
    jobs: { type: "string", default: "20000" },
    workers: { type: "string", default: "1" },
    batch: { type: "string" },
    port: { type: "string" },
    database: { type: "string" },
    batching: { type: "string", default: "on" },
    child: { type: "boolean", default: false },
  },
});

/** Options of the command line. */
export const options = {
  ...args,
  jobs: Number(args.jobs),
  workers: Number(args.workers),
  batch: args.batch === undefined ? undefined : Number(args.batch),
};

const seconds = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Measures the row named on the command line and prints one JSON line.
 *
 * `peer` has `name`, `version`, `settings`, and `batch`, the number of jobs in a bulk call. `prepare()` is called once.
 * `enqueue(n)` enqueues one job. `enqueueMany(from, count, at)` enqueues several in one call, delayed until `at`
 * (milliseconds since 1970) if given. `durability()` returns a text that states when an acknowledged job can be lost.
 * `work(onRun)` starts a worker and returns a function that stops it. `left()` returns the number of uncompleted jobs,
 * or 1 if there are any. `close()` closes all connections.
 */
export async function measure(peer, program) {
  if (options.child) return child(peer);
  await peer.prepare();
  const row = { single, bulk, drain, cycle, latency, due, workers }[options.row];
  if (!row) throw new Error(`no such row: ${options.row}`);
  const seen = await row(peer, options.jobs, program);
  const { name, version, settings } = peer;
  const durability = await peer.durability();
  console.log(
    JSON.stringify({ peer: name, version, settings, durability, row: options.row, jobs: options.jobs, ...seen }),
  );
  await peer.close();
}

/** Calls `each` with the numbers below `count`, from `CALLERS` concurrent callers. */
async function byCallers(count, each) {
  let next = 0;
  const caller = async () => {
    while (next < count) await each(next++);
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

/** Enqueues in bulk calls, two at a time, so that the next is prepared while the database works. */
async function inBulk(peer, jobs, at) {
  let next = 0;
  const caller = async () => {
    while (next < jobs) {
      const from = next;
      next = Math.min(jobs, from + (options.batch ?? peer.batch));
      await peer.enqueueMany(from, next - from, at);
    }
  };
  await Promise.all([caller(), caller()]);
}

async function untilNoneIsLeft(peer) {
  while ((await peer.left()) > 0) await sleep(LOOK_EVERY_MS);
}

async function single(peer, jobs) {
  await byCallers(Math.min(WARM_UP, jobs), peer.enqueue);
  const began = seconds();
  await byCallers(jobs, peer.enqueue);
  return { rate_per_s: jobs / (seconds() - began) };
}

async function bulk(peer, jobs) {
  await inBulk(peer, WARM_UP);
  const began = seconds();
  await inBulk(peer, jobs);
  return { rate_per_s: jobs / (seconds() - began), batch: options.batch ?? peer.batch };
}

/** Waits until the worker has run `count` jobs and none is left. */
async function worked(peer, counter, count) {
  while (counter.run < count) await sleep(1);
  await untilNoneIsLeft(peer);
}

/** Starts a worker and runs jobs on it, so that compilation and connection setup are not measured. */
async function warmWorker(peer) {
  const counter = { run: 0 };
  const stop = await peer.work(() => counter.run++);
  await inBulk(peer, WARM_UP);
  await worked(peer, counter, WARM_UP);
  counter.run = 0;
  return { counter, stop };
}

/** Rate at which a worker completes jobs that were enqueued before it started. */
async function drain(peer, jobs) {
  const warm = await warmWorker(peer);
  await warm.stop();
  await inBulk(peer, jobs);
  const counter = { run: 0 };
  const began = seconds();
  const stop = await peer.work(() => counter.run++);
  await worked(peer, counter, jobs);
  const rate_per_s = jobs / (seconds() - began);
  await stop();
  return { rate_per_s };
}

/** Rate from the first bulk call to the last completion, with a worker running in a separate process. */
async function cycle(peer, jobs, program) {
  const [worker] = await startChildren(program, 1);
  await worker.go();
  await inBulk(peer, WARM_UP);
  await workedApart(peer, [worker], WARM_UP);
  const began = seconds();
  await inBulk(peer, jobs);
  await workedApart(peer, [worker], WARM_UP + jobs);
  const rate_per_s = jobs / (seconds() - began);
  await worker.end();
  return { rate_per_s };
}

/** Latency from the enqueue call to the start of the handler, in an open loop: no call waits for another. */
async function latency(peer, jobs) {
  const warm = await warmWorker(peer);
  await warm.stop();
  const asked = new Map();
  const took = [];
  const stop = await peer.work((n) => {
    const at = asked.get(n);
    if (at !== undefined) took.push(seconds() - at);
  });
  await sleep(300);
  const calls = [];
  const began = seconds();
  for (let n = 0; n < jobs; ) {
    const due = Math.min(jobs, Math.floor((seconds() - began) * STEADY_PER_S) + 1);
    for (; n < due; n++) {
      asked.set(n, seconds());
      calls.push(peer.enqueue(n));
    }
    await sleep(1);
  }
  await Promise.all(calls);
  await untilNoneIsLeft(peer);
  while (took.length < jobs) await sleep(1);
  await stop();
  took.sort((a, b) => a - b);
  const ms = (quantile) => took[Math.min(jobs - 1, Math.ceil(quantile * jobs) - 1)] * 1e3;
  return { rate_per_s: STEADY_PER_S, p50_ms: ms(0.5), p99_ms: ms(0.99), worst_ms: ms(1) };
}

/** Rate at which a warm worker completes jobs that all become due at the same time. */
async function due(peer, jobs) {
  const { counter, stop } = await warmWorker(peer);
  // Long enough to enqueue all jobs at a tenth of the slowest observed rate.
  const at = Date.now() + 3_000 + jobs / 10;
  await inBulk(peer, jobs, at);
  if (Date.now() > at) throw new Error("the jobs became due while they were being enqueued");
  await sleep(at - Date.now());
  await worked(peer, counter, jobs);
  const rate_per_s = jobs / ((Date.now() - at) / 1e3);
  await stop();
  return { rate_per_s };
}

/** Rate of several worker processes, which are all connected before the first one starts. */
async function workers(peer, jobs, program) {
  const children = await startChildren(program, options.workers);
  await inBulk(peer, jobs);
  const began = seconds();
  await Promise.all(children.map((child) => child.go()));
  await workedApart(peer, children, jobs);
  const rate_per_s = jobs / (seconds() - began);
  await Promise.all(children.map((child) => child.end()));
  return { rate_per_s, workers: options.workers };
}

/** Waits until the processes have run `count` jobs in total and none is left. Queries the database only then. */
async function workedApart(peer, children, count) {
  while (children.reduce((sum, child) => sum + child.ran(), 0) < count) await sleep(2);
  await untilNoneIsLeft(peer);
}

async function startChildren(program, count) {
  const children = [];
  for (let n = 0; n < count; n++) {
    const started = fork(program, [...process.argv.slice(2), "--child"]);
    const hear = (word) => new Promise((resolve) => started.on("message", (said) => said === word && resolve()));
    const ready = hear("ready");
    let ran = 0;
    started.on("message", (said) => (ran = said.ran ?? ran));
    children.push({
      ready,
      ran: () => ran,
      go: () => {
        const going = hear("going");
        started.send("go");
        return going;
      },
      end: () => {
        const ended = new Promise((resolve) => started.once("exit", resolve));
        started.send("end");
        return ended;
      },
    });
  }
  await Promise.all(children.map((child) => child.ready));
  return children;
}

/** Worker process: connects, reports `ready`, and starts and ends on messages of the parent process. */
async function child(peer) {
  await peer.prepare();
  let stop = async () => {};
  let ran = 0;
  process.on("message", async (word) => {
    if (word === "go") {
      stop = await peer.work(() => ran++);
      setInterval(() => process.send({ ran }), 5);
      process.send("going");
    } else {
      await stop();
      await peer.close();
      process.exit(0);
    }
  });
  process.send("ready");
}
