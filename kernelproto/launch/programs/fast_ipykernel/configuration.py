"""Look only once for the configuration of each class, and do nothing for objects without one.

A kernel makes about fifty configurable objects when it starts. For each of them traitlets filters
all traits of the class twice and searches the configuration for the sections of each base class,
of the object, of its parent, of the parent of its parent, and so on. Most kernels have no
configuration except that of the application.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from .hook import Hook, Need, find

CONFIGURABLE = "traitlets.config.configurable:Configurable"

# For each class: the order of its base classes, which a program may change, and the names of the
# sections with its configuration.
_sections: WeakKeyDictionary[Any, tuple[Any, list[str]]] = WeakKeyDictionary()


def sections_of(kind: Any) -> list[str]:
    """Return the names of the sections with the configuration of a class."""
    order = kind.__mro__
    known = _sections.get(kind)
    if known is None or known[0] is not order:
        known = _sections[kind] = order, kind.section_names()
    return known[1]


def keys_in(config: dict[str, Any]) -> set[str]:
    """Return the names of all sections and values in a configuration, at each depth."""
    keys = set(config)
    for value in config.values():
        if issubclass(type(value), dict):
            keys |= keys_in(value)
    return keys


def search_less(_: Any) -> None:
    """Replace two methods of the class Configurable, which all configurable classes inherit."""
    configurable, config = find(CONFIGURABLE), find("traitlets.config.loader:Config")
    configurable._find_my_config = finding_sections(configurable._find_my_config, config)
    handler = configurable._config_changed
    handler.func = loading_sections(handler.func, configurable._load_config)


def finding_sections(stock: Any, config: Any) -> Any:
    """Return the method that finds the configuration of an object.

    Args:
        stock: the method of traitlets.
        config: the class of configurations.
    """

    def _find_my_config(self: Any, cfg: Any) -> Any:
        """Extract my config from a global Config object."""
        if keys_in(cfg).isdisjoint(sections_of(type(self))):
            return config()
        return stock(self, cfg)

    return _find_my_config


def loading_sections(stock: Any, loading: Any) -> Any:
    """Return the function that observes the configuration of an object.

    Args:
        stock: the function of traitlets.
        loading: the method that it calls, which a class may have overridden.
    """

    def compatible_observer(self: Any, change_or_name: Any, *args: Any) -> Any:
        """Load the configuration, if there is any."""
        if (
            not isinstance(change_or_name, dict)
            or self.__class__._load_config is not loading
            or self._find_my_config(change_or_name["new"])
        ):
            stock(self, change_or_name, *args)

    return compatible_observer


HOOK = Hook(
    name="configuration",
    needs=[
        Need(
            f"{CONFIGURABLE}._find_my_config",
            "self, cfg",
            "parent section_names _has_section merge",
        ),
        Need(f"{CONFIGURABLE}.section_names", "cls", "__mro__"),
        Need(f"{CONFIGURABLE}._config_changed.func", "self, change_or_name, old, new", "func"),
        Need(
            f"{CONFIGURABLE}._load_config",
            "self, cfg, section_names, traits",
            "_find_my_config hold_trait_notifications items",
        ),
    ],
    install=search_less,
)
