"""python3 -m unittest"""

import json
import unittest

import scpi

GOOD = {
    "device": "bench-1",
    "readings": [{"key": "voltage", "query": "MEAS:VOLT:DC?"}],
    "settings": {"setpoint": "VOLT {}"},
}


def configured(**change) -> scpi.Configuration:
    return scpi.Configuration.parse(json.dumps(GOOD | change))


class Configuration(unittest.TestCase):
    def test_defaults(self):
        configuration = configured()
        self.assertEqual((configuration.poll_ms, configuration.timeout_ms), (1000, 1000))

    def test_what_is_wrong_is_named(self):
        for change, words in [
            ({"devise": 1}, "unknown field 'devise'"),
            ({"device": ""}, "device"),
            ({"readings": []}, "readings"),
            ({"readings": [{"key": "v", "query": "VOLT"}]}, "readings[0].query"),
            ({"readings": [{"key": "v", "query": "A\nB?"}]}, "readings[0].query"),
            ({"settings": {"v": "VOLT"}}, "settings.v"),
            ({"poll_ms": 0}, "poll_ms"),
            ({"poll_ms": True}, "poll_ms"),
        ]:
            with self.subTest(change):
                with self.assertRaises(scpi.Invalid) as refused:
                    configured(**change)
                self.assertIn(words, str(refused.exception))

    def test_no_json(self):
        with self.assertRaises(scpi.Invalid):
            scpi.Configuration.parse("{")


class Numbers(unittest.TestCase):
    def test_as_instruments_write_them(self):
        self.assertEqual(scpi.number(b"+1.250000E+00\r\n"), 1.25)
        for garbage in [b"\n", b"VOLT\n", b"\xff\n", b"9.91E37\n", b"nan\n"]:
            with self.subTest(garbage), self.assertRaises(ValueError):
                scpi.number(garbage)


class Commands(unittest.TestCase):
    def test_only_what_is_configured_can_be_set(self):
        self.assertEqual(scpi.command(configured(), '{"key": "setpoint", "value": 3.5}'), "VOLT 3.5")
        for params in ["[]", '{"key": "other", "value": 1}', '{"key": "setpoint", "value": "1;*RST"}', "{"]:
            with self.subTest(params), self.assertRaises(ValueError):
                scpi.command(configured(), params)


if __name__ == "__main__":
    unittest.main()
