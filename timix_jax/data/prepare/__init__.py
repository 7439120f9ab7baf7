"""`python -m timix_jax.data.prepare`: image–text collections into shards of records.

A format (`karpathy`, `table`, `webdataset`) turns its files into one `ShardTask` for each
output shard; `engine.prepare` cleans and writes them in parallel and continues where it was
stopped.
"""
