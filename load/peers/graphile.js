// Graphile Worker on a PostgreSQL database: `node graphile.js --row drain --database postgres://… --jobs 20000`.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { CONCURRENCY, measure, options } from "./rows.js";

const NAME = "noop";
const version = createRequire(import.meta.url)("graphile-worker/package.json").version;
const quiet = new Logger(() => () => {});
// Settings of the chapter "Performance" of its documentation; they are off by default.
const batching =
  options.batching === "on"
    ? { localQueue: { size: 500, refetchDelay: { durationMs: 10 } }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
    : {};
const pool = new pg.Pool({ connectionString: options.database, max: 10 });
pool.on("error", (error) => console.error(error));
pool.on("connect", (client) => client.on("error", (error) => console.error(error)));
const utils = await makeWorkerUtils({ pgPool: pool, logger: quiet });
// Prepares the statement once per connection. The library's `addJob` does not.
const ADD = { name: "add", text: "SELECT graphile_worker.add_job($1, $2::json)" };

const peer = {
  name: "Graphile Worker",
  version,
  settings: { concurrentJobs: CONCURRENCY, maxPoolSize: CONCURRENCY + 1, ...batching },
  batch: 5_000,
  prepare: () => utils.migrate(),
  enqueue: (n) => pool.query({ ...ADD, values: [NAME, JSON.stringify({ n })] }),
  enqueueMany(from, count, at) {
    const spec = at === undefined ? { identifier: NAME } : { identifier: NAME, runAt: new Date(at) };
    return utils.addJobs(Array.from({ length: count }, (_, i) => ({ ...spec, payload: { n: from + i } })));
  },
  async durability() {
    const { rows } = await pool.query(
      "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit",
    );
    const synced = rows[0].fsync === "on" && rows[0].commit === "on";
    return synced
      ? "PostgreSQL, fsync and synchronous_commit on: an acknowledged job survives kill -9 and power loss; jobs of a killed worker wait four hours"
      : `PostgreSQL, fsync ${rows[0].fsync}, synchronous_commit ${rows[0].commit}: an acknowledged job may be lost in a power loss`;
  },
  async work(onRun) {
    const runner = await run({
      preset: {
        worker: {
          connectionString: options.database,
          concurrentJobs: CONCURRENCY,
          maxPoolSize: CONCURRENCY + 1,
          ...batching,
        },
      },
      logger: quiet,
      noHandleSignals: true,
      taskList: { [NAME]: async ({ n }) => void onRun(n) },
    });
    return () => runner.stop();
  },
  async left() {
    const { rows } = await pool.query("SELECT EXISTS (SELECT FROM graphile_worker._private_jobs) AS left");
    return rows[0].left ? 1 : 0;
  },
  async close() {
    await utils.release();
    await pool.end();
  },
};

await measure(peer, fileURLToPath(import.meta.url));
