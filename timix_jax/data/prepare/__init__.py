"""`python -m timix_jax.data.prepare`: turns image–text collections into shards of records.

A format (`karpathy`, `coco`, `table`, `webdataset`) turns its files into one `ShardTask` per output
shard; `engine.prepare` cleans and writes them in parallel, and resumes after an interruption. A
format is a module with its options, its reader and its `FORMAT`, and one line of `FORMATS` in `__main__`.
Imports `records`, `images` and `sources`.
"""
