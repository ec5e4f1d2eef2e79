"""DECTRIS stream v1 and stream2: bytes to messages and back, pure functions without sockets.

`stream1` and `stream2` each have `decode`, `encode` and their message classes; arrays stay compressed until `EncodedArray.decode`.
"""
