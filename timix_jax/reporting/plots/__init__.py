"""Plots: mixing sheets, training curves, comparison charts; the only package with Matplotlib.

May import evaluators (which curves share a panel) and runtime.
"""
