"""python3 -m unittest"""

import unittest

import waits


class Waits(unittest.TestCase):
    def test_between_floor_and_ceiling(self):
        for attempt in [1, 10, 2**32 - 1]:
            for seed in range(0, 2**32, 2**27):
                self.assertTrue(1000 <= waits.wait(500, attempt, 1000, 60_000, seed) <= 60_000)

    def test_configuration(self):
        self.assertEqual(waits.parse('{"step_ms": 500}'), 500)
        for text in ["", "{}", '{"step_ms": 0}', '{"step_ms": 1, "more": 2}']:
            with self.subTest(text), self.assertRaises(ValueError):
                waits.parse(text)


if __name__ == "__main__":
    unittest.main()
