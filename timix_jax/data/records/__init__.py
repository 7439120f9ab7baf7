"""The stored form of a data set: records, shards and the manifest of a folder of shards.

A prepared folder holds shards `NAME-00000-of-00008.array_record` and, written last, `manifest.json`.
Imports nothing else from `data`.
"""
