"""The processes of one run: connect them, exchange messages, detect failures, and end them together.

Also the lock on the working folder and SIGTERM. It may import `runtime` and `errors`.
"""
