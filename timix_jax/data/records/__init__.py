"""The stored form of a data set: records, shards of them, and the manifest of a folder of shards.

Imports nothing else of `data`.
"""
