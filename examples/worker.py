#!/usr/bin/env python3
"""A worker for Kith's jobs that needs only the Python standard library.

    KITH=http://127.0.0.1:8080 KITH_API_KEY=kith_... python3 examples/worker.py greetings

It claims jobs of one queue, renews their leases by heartbeats, and reports how each job ended. The API key needs the
scope jobs.work. On SIGTERM or Ctrl-C the running job finishes first. Add your own functions to HANDLERS.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

KITH = os.environ.get("KITH", "http://127.0.0.1:8080")
KEY = os.environ["KITH_API_KEY"]
LEASE_MS = 15_000
WAIT_MS = 5_000

stopping = threading.Event()


class Stale(Exception):
    """The lease has expired or the job has ended: the server ignores further reports of this attempt."""


class Cancelled(Exception):
    """Cancellation of the job was requested."""


def call(path, body):
    """POSTs JSON and returns the JSON of the response. Retries if the server is unreachable or overloaded."""
    for wait in (0.2, 1, 2, 5, 5, None):
        request = urllib.request.Request(KITH + path, json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {KEY}")
        try:
            with urllib.request.urlopen(request, timeout=WAIT_MS / 1000 + 10) as response:
                text = response.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code == 409:
                raise Stale from None
            if wait is None or error.code not in (429, 503):
                raise SystemExit(f"{path}: {error.code} {error.read().decode()}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if wait is None or stopping.is_set():
                raise
        time.sleep(wait)


class Job:
    """A claimed job, as handlers see it."""

    def __init__(self, claimed):
        self.id, self.token, self.kind = claimed["id"], claimed["lease_token"], claimed["kind"]
        self.payload = claimed["payload"]
        self.cancelled = threading.Event()

    def report(self, operation, **fields):
        return call(f"/api/v1/jobs/{self.id}/{operation}", {"lease_token": self.token, **fields})

    def progress(self, progress):
        """Reports progress. Raises Cancelled if cancellation was requested."""
        self.report("progress", progress=progress)
        if self.cancelled.is_set():
            raise Cancelled

    def log(self, line, level="info"):
        self.report("log", line=line, level=level)

    def renew_lease(self, done):
        """Sends heartbeats until `done` is set."""
        while not done.wait(LEASE_MS / 3000):
            try:
                if self.report("heartbeat", lease_ms=LEASE_MS)["cancel_requested"]:
                    self.cancelled.set()
            except Stale:
                self.cancelled.set()
                return


def greet(job):
    job.log(f"greeting {job.payload['name']}")
    return {"greeting": f"Hello, {job.payload['name']}!"}


def count(job):
    for n in range(job.payload["to"]):
        job.progress({"done": n + 1, "of": job.payload["to"]})
    return job.payload["to"]


HANDLERS = {"greet": greet, "count": count}


def run(job):
    done = threading.Event()
    heartbeats = threading.Thread(target=job.renew_lease, args=(done,), daemon=True)
    heartbeats.start()
    try:
        if job.kind not in HANDLERS:
            job.report("fail", action="discard", error=f"this worker has no handler for {job.kind}")
        else:
            job.report("complete", result=HANDLERS[job.kind](job))
    except Stale:
        print(f"the lease of job {job.id} has expired", file=sys.stderr)
    except Cancelled:
        job.report("fail", action="cancel")
    except Exception as error:  # An exception of a handler fails its job, not the worker.
        job.report("fail", error=f"{type(error).__name__}: {error}")
    finally:
        done.set()


def main():
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    queue = sys.argv[1] if len(sys.argv) > 1 else "default"
    print(f"working on {queue}", flush=True)
    while not stopping.is_set():
        request = {"worker": "worker.py", "lease_ms": LEASE_MS, "wait_ms": WAIT_MS}
        for claimed in call(f"/api/v1/queues/{queue}/claim", request)["jobs"]:
            run(Job(claimed))


if __name__ == "__main__":
    main()
