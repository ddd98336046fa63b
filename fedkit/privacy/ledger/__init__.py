"""A site's budget: every noisy release is reserved before training and charged for good.

``facts`` is what a ledger records, ``book`` what follows from it, ``file`` how it is kept on disk and ``place`` where,
``ledger`` what a site calls; ``export``, ``elsewhere`` and ``reconcile`` are what outlives a lost disk, ``figures`` and
``forecast`` what people are shown.

::

    FK330  no ledger, or not one that can be read      FK340  the data set's budget: unknown, or fixed otherwise
    FK331  altered                                     FK341  another unit or adjacency
    FK332  entries are missing                         FK342  seeded noise
    FK333  reordered                                   FK343  a limit, order or name that cannot be
    FK334  older than its exported head                FK344  an event outside the validated range
    FK335  another history than its exported head's    FK345  no hold: unknown, ended or expired
    FK336  read-only                                   FK346  more than the hold has left
    FK337  the disk is full or failing                 FK347  the round belongs to another message
    FK338  busy                                        FK348  a commit without its reservation
    FK339  more than the budget has left               FK349  the reply is no longer here
                                                       FK350  an export, receipt or plan file that cannot be used
                                                       FK353  a plan of another delta
                                                       FK354  a round whose reply could not be computed
                                                       FK355  one file under two names, or for two sites
                                                       FK359  a stored reply whose key is missing
"""
