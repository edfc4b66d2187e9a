"""A program of one subject, from its first line to its first answer over HTTP, in a process of its own.

    python benchmarks/rivals/speed_start.py SUBJECT http://127.0.0.1:PORT/v1 "IMPORT STATEMENT"

Prints, as JSON, the seconds of the import alone and of all of it: import, event loop, clients, first answer; and the
most MB the process had used until the import was done. Seconds of the interpreter's own start are in none of them.
"""

import sys
import time

# Whatever is imported above the statement would be a gift to who needs it too, so nothing else is.
SUBJECT, BASE, STATEMENT = sys.argv[1:]


def now():
    return time.perf_counter(), time.process_time()


def peak_mb():
    # Not ru_maxrss: that of a child begins with its parent's.
    with open("/proc/self/status") as status:  # noqa: PTH123  # pathlib is an import
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


async def first_answer(kind):
    subject = kind(BASE)
    await subject.open()
    await subject.answer()
    return now()


began = now()
exec(STATEMENT, {})
imported, rss_mb = now(), peak_mb()

import asyncio  # noqa: E402

from speed_subjects import SUBJECTS  # noqa: E402

answered = asyncio.run(first_answer(SUBJECTS[SUBJECT]))

import json  # noqa: E402
import os  # noqa: E402

wall, cpu = (end - start for start, end in zip(began, imported, strict=True))
start_wall, start_cpu = (end - start for start, end in zip(began, answered, strict=True))
print(json.dumps({
    "import": {"wall": wall, "cpu": cpu, "rss_mb": rss_mb}, "start": {"wall": start_wall, "cpu": start_cpu},
}), flush=True)
os._exit(0)  # nothing is left to be kept, and some take their time
