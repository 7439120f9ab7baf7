"""Reports of a run: metrics, TensorBoard, Weights & Biases, progress, phases and their stalls, memory, traces, plots.

May import distributed and runtime; `plots` may import evaluators too.
"""
