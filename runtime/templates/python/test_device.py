"""python3 -m unittest"""

import unittest

import device


class Device(unittest.TestCase):
    def test_numbers(self):
        self.assertEqual(device.number(b"21.5\n"), 21.5)
        for garbage in [b"\n", b"nan\n", b"\xff\n"]:
            with self.subTest(garbage), self.assertRaises(ValueError):
                device.number(garbage)

    def test_configuration(self):
        self.assertEqual(device.parse('{"device": "d", "poll_ms": 10}'), ("d", 10))
        for text in ["", "[]", "{}", '{"device": "", "poll_ms": 10}', '{"device": "d", "poll_ms": 1}']:
            with self.subTest(text), self.assertRaises(ValueError):
                device.parse(text)


if __name__ == "__main__":
    unittest.main()
