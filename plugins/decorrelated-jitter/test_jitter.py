"""python3 -m unittest"""

import unittest

import jitter


class Jitter(unittest.TestCase):
    def test_waits_grow_with_the_wait_before_and_stay_inside_the_bounds(self):
        def waits(previous):
            return [jitter.wait(3, previous, 1_000, 120_000, seed) for seed in range(200)]

        first, late = waits(0), waits(60_000)
        self.assertTrue(all(1_000 <= wait <= 3_000 for wait in first))
        self.assertTrue(all(1_000 <= wait <= 120_000 for wait in late))
        self.assertGreater(sum(late), 20 * sum(first))
        self.assertGreater(len(set(late)), 190, "gateways with different seeds spread")

    def test_a_floor_at_the_ceiling_leaves_no_choice(self):
        self.assertEqual(jitter.wait(3, 2**32 - 1, 5_000, 5_000, 2**32 - 1), 5_000)

    def test_configuration(self):
        self.assertEqual(jitter.parse("{}"), 3)
        self.assertEqual(jitter.parse('{"factor": 1.5}'), 1.5)
        for text in ["", "[]", '{"faktor": 2}', '{"factor": 1}', '{"factor": true}', '{"factor": NaN}']:
            with self.subTest(text), self.assertRaises(jitter.Invalid):
                jitter.parse(text)


if __name__ == "__main__":
    unittest.main()
