"""Schedule files and fingerprints. Needs no torch."""

import json
import os
import shutil
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../src"))
from uniprefill import DropLayer, Schedule, ScheduleError, UnsupportedError, fingerprint  # noqa: E402
from uniprefill.schedule import resolve  # noqa: E402

MODEL = os.path.join(HERE, "../../../packages/needle-10m-deep")
GOOD = {"format": "uniprefill-schedule", "version": 1, "dropLayers": [{"layer": 3, "p": 0.9}, {"layer": 5, "p": 1}]}
KINDS = ["full"] * 8


class ScheduleTest(unittest.TestCase):
    def refusal(self, value, kinds=KINDS):
        with self.assertRaises(ScheduleError) as caught:
            Schedule.decode(value, "some.json").check(kinds)
        return str(caught.exception)

    def test_the_file_of_the_embedded_model_is_read(self):
        schedule = resolve(None, MODEL)
        self.assertEqual(schedule.drop_layers, (DropLayer(7, 0.9), DropLayer(10, 0.9), DropLayer(13, 0.9)))
        self.assertEqual((schedule.rule, schedule.sink, schedule.last_q, schedule.min_prompt_tokens), ("exclusive", 128, 128, 1024))

    def test_absent_fields_are_those_of_the_engine(self):
        schedule = Schedule.decode(GOOD)
        self.assertEqual((schedule.block, schedule.sink, schedule.last_q, schedule.window_by), (64, 128, 128, "kept"))
        self.assertIsNone(schedule.model)

    def test_faults_are_named_by_field(self):
        layers = lambda *pairs: {"dropLayers": [{"layer": layer, "p": p} for layer, p in pairs]}
        for change, part in (
            ({"format": "other"}, "some.json: format"),
            ({"version": 2}, "version is 2"),
            ({"dropLayer": []}, "dropLayer is no key"),
            ({"dropLayers": {}}, "dropLayers is not a list"),
            ({"dropLayers": [{"layer": 1}]}, "dropLayers is not a list of {layer, p}"),
            (layers((3, 0.9), (3, 0.9)), "dropLayers.1.layer: 3 after 3"),
            (layers((3, 1.5)), "dropLayers.0.p: 1.5"),
            (layers((-1, 0.5)), "dropLayers.0.layer: -1"),
            ({"rule": "best"}, "rule: 'best'"),
            ({"block": 128}, "block: 128"),
            ({"lastQ": 129}, "lastQ: 129"),
            ({"lastQ": 0}, "lastQ: 0"),
            ({"sink": -1}, "sink: -1"),
            ({"minPromptTokens": 1.5}, "minPromptTokens: 1.5"),
            ({"windowBy": "time"}, "windowBy: 'time'"),
            (layers((7, 0.9)), "dropLayers.0.layer: 7 is the last layer"),
            (layers((9, 0.9)), "the model has layers 0 to 7: the schedule is for another model"),
        ):
            self.assertIn(part, self.refusal({**GOOD, **change}))

    def test_only_a_full_attention_layer_selects(self):
        kinds = ["sliding"] * 3 + ["delta"] + ["full"] * 4
        self.assertIn("layer 3 is of kind delta", self.refusal(GOOD, kinds))

    def test_what_enable_is_given_becomes_a_schedule(self):
        self.assertEqual(resolve(GOOD, None), Schedule.decode(GOOD))
        self.assertEqual(len(resolve("preset:llama-3.1-8b", None).drop_layers), 6)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "one.json")
            with open(path, "w") as file:
                json.dump(GOOD, file)
            self.assertEqual(resolve(path, None), Schedule.decode(GOOD))
            with open(path, "w") as file:
                file.write("{")
            with self.assertRaisesRegex(ScheduleError, "one.json"):
                resolve(path, None)
        for given, part in (
            ("preset:none", "gemma-3-12b, llama-3.1-8b"),
            ("/nowhere.json", "/nowhere.json"),
            (None, "no schedule was given"),
            (3, "not int"),
        ):
            with self.assertRaisesRegex(ScheduleError, part):
                resolve(given, None)


class FingerprintTest(unittest.TestCase):
    def test_it_is_the_engines(self):
        # The schedule beside the model was written by the engine.
        self.assertEqual(fingerprint(MODEL), resolve(None, MODEL).model)

    def test_other_weights_and_another_config_differ(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in os.listdir(MODEL):
                if name.endswith(".safetensors") or name == "config.json":
                    shutil.copy(os.path.join(MODEL, name), folder)
            first = fingerprint(folder)
            path = os.path.join(folder, "model-00001-of-00004.safetensors")
            with open(path, "r+b") as file:
                header = int.from_bytes(file.read(8), "little")
                file.seek(8 + header)
                byte = file.read(1)[0]
                file.seek(8 + header)
                file.write(bytes([byte ^ 1]))
            second = fingerprint(folder)
            with open(os.path.join(folder, "config.json"), "a") as file:
                file.write("\n")
            self.assertEqual(len({first, second, fingerprint(folder)}), 3)

    def test_a_folder_without_weights_or_of_another_family_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(ScheduleError, "config.json is missing"):
                fingerprint(folder)
            with open(os.path.join(folder, "config.json"), "w") as file:
                json.dump({"architectures": ["GPT2LMHeadModel"]}, file)
            with self.assertRaisesRegex(ScheduleError, "no .*safetensors"):
                fingerprint(folder)
            shutil.copy(os.path.join(MODEL, "model-00001-of-00004.safetensors"), folder)
            with self.assertRaisesRegex(UnsupportedError, "GPT2LMHeadModel"):
                fingerprint(folder)


if __name__ == "__main__":
    unittest.main()
