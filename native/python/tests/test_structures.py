"""The Python structures lie in memory as a C compiler lays out the headers. Needs a C compiler, no torch."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../src"))
from uniprefill import structures as up  # noqa: E402

HEADERS = os.path.join(HERE, "../../include")


class Structures(unittest.TestCase):
    def test_every_field_lies_where_c_has_it(self):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self.skipTest("no C compiler")
        lines = []
        for name, c_name in up.C_NAMES.items():
            lines.append(f'printf("{name} size %zu\\n", sizeof({c_name}));')
            for field, _ in getattr(up, name)._fields_:
                lines.append(f'printf("{name} {field} %zu\\n", offsetof({c_name}, {field}));')
        source = "#include <stdio.h>\n#include <uniprefill/operators.h>\nint main(void) {\n%s\nreturn 0;\n}\n" % "\n".join(lines)
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "offsets.c"), "w") as file:
                file.write(source)
            program = os.path.join(folder, "offsets")
            subprocess.run([compiler, "-I", HEADERS, "-o", program, os.path.join(folder, "offsets.c")], check=True)
            told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        own = []
        for name in up.C_NAMES:
            structure = getattr(up, name)
            own.append(f"{name} size {ctypes.sizeof(structure)}")
            own += [f"{name} {field} {getattr(structure, field).offset}" for field, _ in structure._fields_]
        self.assertEqual(told.split("\n")[:-1], own)

    def test_every_struct_of_the_operators_is_there(self):
        declared = set()
        for name in ("operators.h", "layers.h", "mixers.h"):
            with open(os.path.join(HEADERS, "uniprefill", name)) as file:
                declared |= {line.split()[2] for line in file if line.startswith("typedef struct up_")}
        # A numpy dtype in Python.
        declared.discard("up_sample_row")
        self.assertEqual(declared, set(up.C_NAMES.values()))

    def test_constants_are_those_of_the_headers(self):
        with open(os.path.join(HEADERS, "uniprefill/operators.h")) as file:
            text = file.read()
        from uniprefill.library import ABI_VERSION

        self.assertIn(f"#define UP_ABI_VERSION {ABI_VERSION}\n", text)
        self.assertIn(f"UP_F32 = {up.F32}, UP_BF16 = {up.BF16}, UP_F16 = {up.F16}, UP_F64 = {up.F64}", text)
        self.assertIn(f"UP_REFERENCE = {up.REFERENCE}, UP_CUDA = {up.CUDA}", text)
        self.assertIn(f"UP_RULE_EXCLUSIVE = {up.RULES['exclusive']}, UP_RULE_REFERENCE = {up.RULES['reference']}", text)


if __name__ == "__main__":
    unittest.main()
