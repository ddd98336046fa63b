"""Work that is counted instead of timed: a clock tells of the machine and its load, too."""

import sys


def calls(function, *arguments, **named):
    """How many Python functions a call runs through; what C code does is not seen."""
    count = 0

    def seen(frame, event, argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        function(*arguments, **named)
    finally:
        sys.setprofile(before)
    return count
