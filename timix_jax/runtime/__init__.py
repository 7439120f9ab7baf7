"""The machine around a run: working folder, files and stores, compile cache, log."""
