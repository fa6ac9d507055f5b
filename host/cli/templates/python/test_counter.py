import json
import unittest

from counter import Counter


class CounterTest(unittest.TestCase):
    def test_numbers_are_added(self):
        counter = Counter()
        self.assertEqual(counter.execute(None, 5), 5)
        self.assertEqual(counter.execute(None, -2), 3)
        self.assertEqual(counter.query(None, "total"), 3)

    def test_body_that_is_no_whole_number_changes_nothing(self):
        counter = Counter()
        for body in ["five", 1.5, True, None]:
            with self.assertRaises(ValueError):
                counter.execute(None, body)
        self.assertEqual(counter.total, 0)

    def test_state_survives_a_failover(self):
        counter = Counter()
        counter.execute(None, 5)
        moved = Counter()
        moved.load(1, json.loads(json.dumps(counter.save())))
        self.assertEqual(moved.total, 5)


if __name__ == "__main__":
    unittest.main()
