"""The exports of the workload: bytes in and out, around one counter."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import state

from bodies import decode, encode
from counter import Counter

# The host takes at most 1 MiB at a time.
CHUNK_BYTES = 65536

counter = Counter()


def or_refuse(work):
    """Returns what `work` does. Its ValueError, which errors of JSON are too, becomes the `err` of a result."""
    try:
        return work()
    except ValueError as error:
        raise Err(str(error))


class Workload(exports.Workload):
    def execute(self, context, transaction):
        return or_refuse(lambda: encode(counter.execute(context, decode(transaction))))

    def query(self, context, query):
        return or_refuse(lambda: encode(counter.query(context, decode(query))))

    def state_version(self):
        """Raise it when `save` returns another form, and let `load` read the older one."""
        return 1

    def snapshot(self):
        saved = encode(counter.save())
        for at in range(0, len(saved), CHUNK_BYTES):
            state.write(saved[at : at + CHUNK_BYTES])

    def restore(self, version):
        chunks = list(iter(lambda: state.read(CHUNK_BYTES), b""))
        or_refuse(lambda: counter.load(version, decode(b"".join(chunks))))
