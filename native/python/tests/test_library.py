"""A library that is missing, old, or something else, is named, with what to do. Needs a C compiler, no torch."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../src"))
from uniprefill import LibraryError, library  # noqa: E402

SOURCE = """
typedef struct { int status; const char *operation, *phase, *detail; } up_error;
int up_abi_version(void) { return %d; }
up_error up_last_error(void) { up_error e = {7, "up_backend_available", "load", "no such card"}; return e; }
const char *up_status_name(int status) { return "UP_LAUNCH_FAILED"; }
int up_backend_available(int backend) { return backend == 0 ? 0 : 7; }
"""


class LibraryTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        patch = mock.patch.object(library, "_library", None)
        patch.start()
        self.addCleanup(patch.stop)

    def build(self, source):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self.skipTest("no C compiler")
        path = os.path.join(self.folder, f"library{len(os.listdir(self.folder))}")
        with open(path + ".c", "w") as file:
            file.write(source)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", path + ".so", path + ".c"], check=True)
        return path + ".so"

    def refusal(self, given):
        with mock.patch.dict(os.environ, {"UNIPREFILL_LIBRARY": given}), self.assertRaises(LibraryError) as caught:
            library.library()
        return str(caught.exception)

    def test_a_missing_library_is_told_where_it_was_sought(self):
        environment = {k: v for k, v in os.environ.items() if k != "UNIPREFILL_LIBRARY"}
        with mock.patch.dict(os.environ, environment, clear=True), mock.patch.object(library, "NAME", "libnowhere_9.so"):
            with self.assertRaises(LibraryError) as caught:
                library.library()
        told = str(caught.exception)
        for part in ("libnowhere_9.so was not found", "lib/libnowhere_9.so", "UNIPREFILL_LIBRARY", "cmake -S native -B build"):
            self.assertIn(part, told)

    def test_a_path_in_the_environment_that_does_not_exist_is_named(self):
        self.assertIn("/nowhere/libuniprefill.so (UNIPREFILL_LIBRARY)", self.refusal("/nowhere/libuniprefill.so"))

    def test_another_library_is_told_apart(self):
        told = self.refusal(self.build("int nothing(void) { return 0; }\n"))
        self.assertIn("is not libuniprefill", told)

    def test_an_older_and_a_newer_library_are_named_with_both_versions(self):
        told = self.refusal(self.build(SOURCE % (library.ABI_VERSION - 1)))
        self.assertIn(f"is older than this package: it has ABI version {library.ABI_VERSION - 1}", told)
        self.assertIn(f"needs {library.ABI_VERSION}", told)
        self.assertIn("is newer than this package", self.refusal(self.build(SOURCE % (library.ABI_VERSION + 1))))

    def test_a_file_that_is_no_library_is_named(self):
        path = os.path.join(self.folder, "text.so")
        with open(path, "w") as file:
            file.write("not a library\n")
        self.assertIn(f"{path} cannot be loaded", self.refusal(path))

    def test_a_backend_that_cannot_run_here_says_what_is_missing(self):
        own = library.open_library(self.build(SOURCE % library.ABI_VERSION))
        own.require(0)
        with self.assertRaises(LibraryError) as caught:
            own.require(1)
        for part in ("up_backend_available, load: no such card (UP_LAUNCH_FAILED)", "UNIPREFILL_CUDA_LIBRARY", "Hopper"):
            self.assertIn(part, str(caught.exception))

    def test_a_library_that_failed_to_load_is_looked_for_again(self):
        self.refusal("/nowhere/libuniprefill.so")
        good = self.build(SOURCE % library.ABI_VERSION)
        with mock.patch.dict(os.environ, {"UNIPREFILL_LIBRARY": good}):
            self.assertEqual(library.library().path, good)


if __name__ == "__main__":
    unittest.main()
