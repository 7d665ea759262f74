"""The kernel types that the model may choose, by language."""

from __future__ import annotations

from collections.abc import Sequence

from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import check_kernel_type
from kernelproto.mcp.limits import Refused


class KernelTypes:
    """The kernel types of the server; the first one is the default.

    Args:
        languages: the language of each kernel type, by name.
    """

    def __init__(self, languages: dict[str, str]) -> None:
        self.names = list(languages)
        self._types = {name: name for name in languages}
        for name, language in languages.items():
            self._types.setdefault(language.lower(), name)
        self.choices = list(dict.fromkeys([languages[self.names[0]].lower(), *self._types]))

    @property
    def default(self) -> str:
        """The language of the default kernel type."""
        return self.choices[0]

    def choose(self, language: str) -> str:
        """Return the kernel type for a language or the name of a kernel type.

        Raises:
            Refused: the server has no such kernel type.
        """
        try:
            return self._types[language if language in self._types else language.lower()]
        except KeyError:
            choices = ", ".join(self.choices)
            raise Refused(
                f"{language[:80]!r} is not available here: use one of {choices}"
            ) from None


async def find_kernel_types(finder: KernelFinder, names: Sequence[str]) -> KernelTypes:
    """Return the kernel types of these names, which must exist.

    Args:
        finder: finds the kernel types.
        names: at least one; a name may lack the provider.

    Raises:
        NoSuchKernel: a kernel type does not exist.
    """
    known = {name: about async for name, about in finder.find_kernels()}
    found = [
        check_kernel_type(name, known, remedy="choose one of `kernelproto list`") for name in names
    ]
    return KernelTypes({name: known[name].get("language", "") or name for name in found})
