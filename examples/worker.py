#!/usr/bin/env python3
"""A worker for Kith's jobs, in Python without anything but its standard library.

    KITH=http://127.0.0.1:8080 KITH_API_KEY=kith_... python3 examples/worker.py greetings

It takes jobs out of one queue, says every few seconds that it lives, and how each job ended. The key needs the scope
jobs.work. SIGTERM and Ctrl-C let the job that runs finish. Put functions of your own into HANDLERS.
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
    """The job is somebody else's by now, or has ended: nothing that is said of it counts any more."""


class Cancelled(Exception):
    """Somebody wants the job to stop."""


def call(path, body):
    """POSTs JSON, and returns the answer's. A server that is not there, or has too much to do, is asked again."""
    for wait in (0.2, 1, 2, 5, 5, None):
        request = urllib.request.Request(KITH + path, json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {KEY}")
        try:
            with urllib.request.urlopen(request, timeout=WAIT_MS / 1000 + 10) as answer:
                text = answer.read()
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
    """A job that was taken, as its function sees it."""

    def __init__(self, claimed):
        self.id, self.token, self.kind = claimed["id"], claimed["lease_token"], claimed["kind"]
        self.payload = claimed["payload"]
        self.cancelled = threading.Event()

    def say(self, word, **more):
        return call(f"/api/v1/jobs/{self.id}/{word}", {"lease_token": self.token, **more})

    def progress(self, progress):
        """Says how far it is; stops it if somebody wants that."""
        self.say("progress", progress=progress)
        if self.cancelled.is_set():
            raise Cancelled

    def log(self, line, level="info"):
        self.say("log", line=line, level=level)

    def keep(self, done):
        """Says that it lives, until it is done."""
        while not done.wait(LEASE_MS / 3000):
            try:
                if self.say("heartbeat", lease_ms=LEASE_MS)["cancel_requested"]:
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
    heart = threading.Thread(target=job.keep, args=(done,), daemon=True)
    heart.start()
    try:
        if job.kind not in HANDLERS:
            job.say("fail", action="discard", error=f"nobody here does {job.kind}")
        else:
            job.say("complete", result=HANDLERS[job.kind](job))
    except Stale:
        print(f"job {job.id} is somebody else's by now", file=sys.stderr)
    except Cancelled:
        job.say("fail", action="cancel")
    except Exception as error:  # Whatever a function throws is a failure of its job, not of the worker.
        job.say("fail", error=f"{type(error).__name__}: {error}")
    finally:
        done.set()


def main():
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    queue = sys.argv[1] if len(sys.argv) > 1 else "default"
    print(f"working on {queue}", flush=True)
    while not stopping.is_set():
        asked = {"worker": "worker.py", "lease_ms": LEASE_MS, "wait_ms": WAIT_MS}
        for claimed in call(f"/api/v1/queues/{queue}/claim", asked)["jobs"]:
            run(Job(claimed))


if __name__ == "__main__":
    main()
