"""Reports of a run: metrics, TensorBoard, progress lines, phases and their stalls, memory, traces, plots.

May import distributed and runtime; `plots` may import evaluators too.
"""
