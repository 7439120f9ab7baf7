"""`python -m timix_jax.embed`: a folder of images or tar shards to a folder of embeddings, in clip-retrieval's layout.

    OUT/index.json                      what was embedded, with which model
    OUT/img_emb/img_emb_0.npy           float32 (n, D), one row per image, of length 1
    OUT/text_emb/text_emb_0.npy         the same of the captions, row by row, if a part has any; zeros for a missing one
    OUT/metadata/metadata_0.parquet     image_path and caption of each row; written last: its part is complete
    OUT/skipped/skipped_0.jsonl         what was left out of the part, and why
    OUT/skipped.jsonl                   all of these

May import `inference` and `data`.
"""
