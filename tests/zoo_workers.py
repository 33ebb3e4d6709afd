"""A worker for the tests of the zoo's processes: does what its one argument says."""

import sys
import time


def main():
    (what,) = sys.argv[1:]
    if what == "talk":
        say('hello\n{"status": "exact", "error": 0.5}\n{broken')
    elif what == "sleep":
        say('{"step": "sleep"}')
        time.sleep(60)
    elif what == "fill memory":
        content = b"1" * 400_000_000
        time.sleep(60)
        say(str(len(content)))
    else:
        sys.exit("ouch")


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
