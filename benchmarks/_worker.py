"""A process that builds one step and repeats it on request, so that two processes can be timed in turn.

    python benchmarks/_worker.py SPECIFICATION

Requests are lines on standard input, each a number of steps. Replies are lines of JSON on standard output: the first
one when the step has run once, then one per request. The process ends when its input does.
"""

import json
import os
import resource
import sys
import time

STARTED = time.perf_counter()


def peak_mb(who=resource.RUSAGE_SELF):
    """Return the largest resident memory of this process so far, or of its finished children, in MB."""
    largest = resource.getrusage(who).ru_maxrss
    return round(largest / (1e6 if sys.platform == "darwin" else 1e3))


def serve(build, requests, replies):
    """Build a step, run it once, and run it as often as each request asks.

    Args:
        build: Function that returns the step.
        requests: Lines with a number of steps each.
        replies: File for the replies.
    """

    def reply(**content):
        print(json.dumps({**content, "peak_mb": peak_mb()}), file=replies, flush=True)

    step = build()
    built = time.perf_counter()
    step()
    reply(start_s=built - STARTED, first_step_s=time.perf_counter() - built)
    for request in requests:
        count = int(request)
        started = time.perf_counter()
        for _ in range(count):
            step()
        reply(seconds=(time.perf_counter() - started) / count)


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    specification = json.loads(sys.argv[1])
    if "do" in specification:
        import _once

        seconds = _once.run(specification)
        measured = resource.RUSAGE_CHILDREN if specification["do"] == "command" else resource.RUSAGE_SELF
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(measured)}), file=replies, flush=True)
        return
    from _steps import build_step
    from _suites import Path

    path = Path(**{**specification["path"], "options": tuple(specification["path"]["options"])})
    serve(lambda: build_step(path, specification["task"], specification["exported"]), sys.stdin, replies)


if __name__ == "__main__":
    main()
