"""Bodies: values as bytes of JSON."""

import json
import re

# The parser recurses into each list and object. Deeper ones would exceed the stack of a guest, which is a trap.
DEPTH_MAX = 100

TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


def encode(value):
    return json.dumps(value).encode()


def decode(body):
    """Returns the value of a body. A ValueError is the reason for which it is refused."""
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and depth(body) > DEPTH_MAX:
        raise ValueError(f"nest at most {DEPTH_MAX} lists and objects")
    return json.loads(body)


def depth(body):
    """Returns how deeply lists and objects are nested. Brackets in texts do not count."""
    deepest = level = 0
    for byte in TEXT.sub(b"", body):
        if byte in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif byte in b"]}":
            level -= 1
    return deepest
