"""The checks below test/gpu, which need a GPU to run, read without one: they name functions and fields that there are."""

import ast
import glob
import os
import re
import sys
import types
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
GPU = os.path.join(ROOT, "test/gpu")
SCRIPTS = sorted(glob.glob(os.path.join(GPU, "*.py")))


def load_backend():
    """test/gpu/backend.py, with a torch that has its types alone where there is none."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = types.ModuleType("torch")
        for name in ("bfloat16", "float16", "float32"):
            setattr(sys.modules["torch"], name, name)
    sys.path.insert(0, GPU)
    import backend

    return backend


def faults(tree, up):
    """What a script says of `up`, the backend's module, that is not so."""
    operators = {*up.WORKSPACES, *(name for name, _ in up.ENTRIES), *dir(up.Backend), "name"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "up":
            if not hasattr(up, node.attr):
                yield node.lineno, f"up.{node.attr}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.backend" and node.attr not in operators:
            yield node.lineno, f"self.backend.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("up."):
            structure = getattr(up, ast.unparse(node.func)[3:], None)
            if isinstance(structure, type) and issubclass(structure, up.Parameters):
                fields = {name for name, _ in structure._fields_}
                yield from ((node.lineno, f"{structure.__name__}.{k.arg}") for k in node.keywords if k.arg and k.arg not in fields)


class GpuScripts(unittest.TestCase):
    def test_every_script_names_what_there_is(self):
        up = load_backend()
        found = {}
        for path in SCRIPTS:
            with open(path) as file:
                found[os.path.basename(path)] = list(faults(ast.parse(file.read(), path), up))
        self.assertIn("check_selection.py", found)
        self.assertEqual({name: each for name, each in found.items() if each}, {})

    def test_what_is_not_there_is_found(self):
        planted = "up.Selection(heads=1, head=2)\nup.Select\nself.backend.selects(p)\nself.backend.select(p)\n"
        self.assertEqual(
            sorted(faults(ast.parse(planted), load_backend())), [(1, "Selection.head"), (2, "up.Select"), (3, "self.backend.selects")]
        )

    def test_the_table_is_that_of_the_header(self):
        with open(os.path.join(ROOT, "native/src/operators/backend.h")) as file:
            text = file.read()
        names = re.findall(r"\(\*(\w+)\)\(", text[text.index("typedef struct up_backend_table") :])
        entries = [name for name, _ in load_backend().ENTRIES]
        self.assertEqual(names[: 1 + len(entries)], ["available", *entries])
        self.assertEqual(names[1 + len(entries)], "create_backend")


if __name__ == "__main__":
    unittest.main()
