"""Data: what commits, journals and messages are made of.

The other packages of the kernel make these values and read them. Stores and clients do, too.
"""
