"""A counter. A transaction is a number to add, and its reply is the total."""


class Counter:
    """The state: all that a failover moves, beside the files of the virtual disk."""

    def __init__(self):
        self.total = 0

    def execute(self, context, add):
        """Applies a transaction. A ValueError is the reason for which it is refused."""
        if type(add) is not int:
            raise ValueError("send a whole number, such as 5")
        self.total += add
        return self.total

    def query(self, context, query):
        """Answers a query, and changes nothing."""
        return self.total

    def save(self):
        """Returns the state as a value for JSON."""
        return {"total": self.total}

    def load(self, version, state):
        """Takes a state that `save` of this or of an older version returned."""
        if version != 1:
            raise ValueError(f"state has version {version}, this workload reads version 1")
        self.total = state["total"]
