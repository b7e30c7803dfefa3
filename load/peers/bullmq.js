// BullMQ on a running Redis: `node bullmq.js --row drain --port 6379 --jobs 20000`.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { CONCURRENCY, measure, options } from "./rows.js";

const NAME = "noop";
const version = createRequire(import.meta.url)("bullmq/package.json").version;
const at = { host: "127.0.0.1", port: Number(options.port) };
// As recommended by BullMQ's documentation: a queue fails fast, a worker waits until Redis is available again.
const redis = new Redis({ ...at });
const queue = new Queue(NAME, { connection: redis });

const peer = {
  name: "BullMQ",
  version,
  settings: { concurrency: CONCURRENCY, removeOnComplete: { count: 0 } },
  batch: 1_000,
  prepare: () => queue.waitUntilReady(),
  enqueue: (n) => queue.add(NAME, { n }),
  enqueueMany(from, count, at) {
    const opts = at === undefined ? {} : { delay: at - Date.now() };
    return queue.addBulk(Array.from({ length: count }, (_, i) => ({ name: NAME, data: { n: from + i }, opts })));
  },
  async durability() {
    const [, persisted] = await redis.config("GET", "appendonly");
    const [, synced] = await redis.config("GET", "appendfsync");
    if (persisted !== "yes") return "Redis without AOF: an acknowledged job is lost with Redis";
    return synced === "always"
      ? "Redis, AOF, appendfsync always: an acknowledged job survives kill -9 and power loss"
      : `Redis, AOF, appendfsync ${synced}: an acknowledged job survives kill -9; a power loss loses those of the last second`;
  },
  async work(onRun) {
    const worker = new Worker(NAME, async (job) => onRun(job.data.n), {
      connection: { ...at, maxRetriesPerRequest: null },
      concurrency: CONCURRENCY,
      // Completed jobs are removed immediately, which is the fastest setting of BullMQ.
      removeOnComplete: { count: 0 },
    });
    await worker.waitUntilReady();
    return () => worker.close();
  },
  async left() {
    const counts = await queue.getJobCounts("waiting", "active", "prioritized", "delayed", "paused");
    return Object.values(counts).reduce((sum, count) => sum + count, 0);
  },
  async close() {
    await queue.close();
    redis.disconnect();
  },
};

await measure(peer, fileURLToPath(import.meta.url));
