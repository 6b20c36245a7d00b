"""Finds libuniprefill.so and calls its functions by name.

The library is sought in the environment variable UNIPREFILL_LIBRARY, then beside this package (`uniprefill/lib`), then where the
dynamic linker looks. It finds the CUDA kernels, libuniprefill_cuda.so, itself: in UNIPREFILL_CUDA_LIBRARY, else in its own folder.
"""

import ctypes
import os
from ctypes import byref, c_int32, c_size_t, c_void_p

from . import structures as up
from .errors import LibraryError

ABI_VERSION = 2
NAME = "libuniprefill.so"

_BUILD = (
    "build it with `cmake -S native -B build && cmake --build build` and set UNIPREFILL_LIBRARY=build/libuniprefill.so, or install "
    "a package that bundles it"
)


class Library:
    """libuniprefill at one path. Thread-safe, as the C functions are. Fails with LibraryError."""

    def __init__(self, path, lib):
        self.path, self._lib = path, lib
        lib.up_last_error.restype = up.UpError
        lib.up_status_name.restype = ctypes.c_char_p
        self._functions = {}

    def require(self, backend):
        """Fails unless a backend (structures.CUDA, REFERENCE) can run here."""
        status = self._lib.up_backend_available(backend)
        if status != 0:
            raise LibraryError(
                f"{self.path}: {self._last_error(status)}. The CUDA kernels are in libuniprefill_cuda.so, sought in "
                "UNIPREFILL_CUDA_LIBRARY and in the library's own folder; they need an NVIDIA Hopper GPU"
            )

    def call(self, name, backend, parameters, stream):
        """up_NAME without workspace."""
        status = self._function(name, 3)(backend, byref(parameters), stream)
        if status != 0:
            raise LibraryError(self._last_error(status))

    def workspace_bytes(self, name, backend, parameters):
        """What up_NAME wants as workspace."""
        size = c_size_t()
        status = self._function(up.WORKSPACES[name], 3)(backend, byref(parameters), byref(size))
        if status != 0:
            raise LibraryError(self._last_error(status))
        return size.value

    def call_with(self, name, backend, parameters, workspace, workspace_bytes, stream):
        """up_NAME with the workspace at an address."""
        status = self._function(name, 5)(backend, byref(parameters), workspace, workspace_bytes, stream)
        if status != 0:
            raise LibraryError(self._last_error(status))

    def _function(self, name, arguments):
        function = self._functions.get(name)
        if function is None:
            function = getattr(self._lib, f"up_{name}")
            types = {3: [c_int32, c_void_p, c_void_p], 5: [c_int32, c_void_p, c_void_p, c_size_t, c_void_p]}
            function.argtypes, function.restype = types[arguments], c_int32
            self._functions[name] = function
        return function

    def _last_error(self, status):
        error = self._lib.up_last_error()
        words = [part.decode() if part else "" for part in (error.operation, error.phase, error.detail)]
        return f"{words[0]}, {words[1]}: {words[2]} ({self._lib.up_status_name(status).decode()})"


def candidates():
    """Paths to try, in order, each with the place that names it."""
    given = os.environ.get("UNIPREFILL_LIBRARY")
    if given:
        return [(given, "UNIPREFILL_LIBRARY")]
    bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", NAME)
    return [(bundled, "the package's own folder"), (NAME, "the dynamic linker's folders")]


def open_library(path):
    """Loads the library at a path and checks its version. Fails with LibraryError."""
    try:
        lib = ctypes.CDLL(path)
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {error}; {_BUILD}") from None
    try:
        version = lib.up_abi_version()
    except AttributeError:
        raise LibraryError(f"{path} is not libuniprefill: it has no up_abi_version; {_BUILD}") from None
    if version != ABI_VERSION:
        age = "older" if version < ABI_VERSION else "newer"
        raise LibraryError(
            f"{path} is {age} than this package: it has ABI version {version}, this package needs {ABI_VERSION}; build the library and "
            "install the package from one commit"
        )
    return Library(path, lib)


_library = None


def library():
    """The library, loaded once a process. Fails with LibraryError that says where it was sought."""
    global _library
    if _library is None:
        sought = candidates()
        for path, _ in sought:
            if os.path.sep not in path or os.path.exists(path):
                try:
                    _library = open_library(path)
                    return _library
                except LibraryError:
                    if (path, "the dynamic linker's folders") != sought[-1]:
                        raise
        places = ", ".join(f"{path} ({place})" for path, place in sought)
        raise LibraryError(f"{NAME} was not found; sought: {places}; {_BUILD}")
    return _library
