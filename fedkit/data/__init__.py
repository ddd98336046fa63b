"""Tables by declaration: sources, encoding, units, splits, partitions.

Codes of this package's errors::

    FK201 no such source          FK208 database            FK215 not in a private run
    FK202 empty table             FK209 built-in changed    FK216 partition
    FK203 encoding                FK210 not a number        FK217 arrays given in Python
    FK204 delimiter               FK211 target              FK218 declaration
    FK205 missing column          FK212 feature all missing
    FK206 duplicate column        FK213 sites and records
    FK207 malformed rows          FK214 unit ids           FK222 more units than declared
    FK223 a database that cannot be reached
"""
