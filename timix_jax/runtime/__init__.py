"""The environment of a run: working folder, atomic and remote files, compile cache, log.

It may import only `errors`.
"""
