"""What Python is too slow for, in C: compiled when fedkit is installed, and done without where there is no compiler.

Nothing here is needed. Every caller has another way with numpy and torch, of the same mathematics and the same
guarantees; :func:`fedkit.native.library.library` says which it is.
"""
