import unittest

from bodies import DEPTH_MAX, decode, encode


class BodiesTest(unittest.TestCase):
    def test_decoded_value_is_the_encoded_one(self):
        value = [{"text": '[{"\\'}] * (2 * DEPTH_MAX)
        self.assertEqual(decode(encode(value)), value)

    def test_body_that_is_nested_too_deeply_is_refused(self):
        decode(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX)
        for body in [b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), b'{"a":' * 10_000]:
            with self.assertRaisesRegex(ValueError, "nest at most 100"):
                decode(body)


if __name__ == "__main__":
    unittest.main()
