"""With the hook, objects have the configuration that traitlets alone gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from traitlets import Integer
from traitlets.config import Config, Configurable, LoggingConfigurable

from kernelproto.launch.programs.fast_ipykernel import configuration


class Engine(LoggingConfigurable):
    power: Any = Integer(1).tag(config=True)
    weight: Any = Integer(2)


class Diesel(Engine):
    torque: Any = Integer(3).tag(config=True)


class Car(Configurable):
    seats: Any = Integer(4).tag(config=True)


class Loader(Car):
    """Loads its configuration by itself."""

    loaded = 0

    def _load_config(self, *args: Any, **options: Any) -> None:
        self.loaded += 1
        super()._load_config(*args, **options)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"Other": {"power": 5}},
    {"Engine": {"power": 5}},
    {"Diesel": {"power": 6, "torque": 7}, "Engine": {"power": 5}},
    {"Car": {"Engine": {"power": 8}}},
    {"Car": {"Diesel": {"power": 9}, "seats": 2}, "Diesel": {"power": 6}},
    {"Configurable": {"seats": 3}},
    {"Car": {"Other": {"Diesel": {"power": 9}}}},
    {"Loader": {"Diesel": {"torque": 1}}},
]


def values(config: Config) -> list[dict[str, Any]]:
    """Return the values of a family of objects, before and after their configuration changes."""
    car, loader = Car(config=config), Loader(config=config)
    parts = [kind(parent=parent) for kind in (Engine, Diesel, Car) for parent in (car, loader)]
    parts += [Diesel(parent=parts[0]), Diesel(config=config, torque=11), Diesel()]
    seen = [part.trait_values(config=True) for part in (car, loader, *parts)]
    for part in (car, loader, *parts):
        part.config = Config({"Engine": {"power": 20}, "Car": {"Diesel": {"torque": 30}}})
        seen.append(part.trait_values(config=True))
        part.update_config(Config({"Engine": {"power": 21}}))
        seen.append(part.trait_values(config=True))
    return [*seen, {"loaded": loader.loaded}]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    changed: Any = Configurable._config_changed
    monkeypatch.setattr(Configurable, "_find_my_config", Configurable._find_my_config)
    monkeypatch.setattr(changed, "func", changed.func)
    monkeypatch.setattr(Configurable, "_load_config", Configurable._load_config)
    configuration.search_less(None)
    yield
    assert Configurable._find_my_config.__module__ == configuration.__name__


STOCK = [values(Config(config)) for config in CONFIGS]


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(("config", "stock"), list(zip(CONFIGS, STOCK, strict=True)), ids=str)
def test_same_values_as_without_the_hook(config: dict[str, Any], stock: list[Any]) -> None:
    assert values(Config(config)) == stock


def test_sections_follow_the_base_classes() -> None:
    class Part(Engine):
        pass

    assert configuration.sections_of(Part)[-2:] == ["Engine", "Part"]
    Part.__bases__ = (Diesel,)
    assert configuration.sections_of(Part)[-3:] == ["Engine", "Diesel", "Part"]


@pytest.mark.usefixtures("hook")
def test_unknown_option_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    Engine(config=Config({"Engine": {"powr": 5}}))
    assert "`powr` not recognized by `Engine`" in caplog.text


@pytest.mark.usefixtures("hook")
def test_objects_without_configuration_do_not_search_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook saves time only as long as this is true."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("traitlets has loaded the configuration")

    monkeypatch.setattr(Car, "traits", fail)
    assert Car(config=Config({"Other": {"seats": 2}})).seats == 4


def test_names_at_each_depth() -> None:
    config = Config({"A": {"b": 1, "C": {"d": {"E": 2}}}})
    assert configuration.keys_in(config) == set("AbCdE")
