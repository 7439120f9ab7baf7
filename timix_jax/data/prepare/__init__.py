"""`python -m timix_jax.data.prepare`: turns image–text collections into shards of records.

A format (`karpathy`, `table`, `webdataset`) turns its files into one `ShardTask` per output shard;
`engine.prepare` cleans and writes them in parallel, and resumes after an interruption. To add a
format, add one line to `FORMATS` in `__main__`. Imports `records`, `images` and `sources`.
"""
