"""The registry of architectures: networks are defined in code and chosen by name.

What shapes the network (its config) and what shapes its training (the hyperparameters, see `trainers.family`) are kept apart. What the
task fixes, such as a tensor's meaning, is not configurable at all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from tessera.errors import InvalidArgumentError
from trainers.validation import validate


class ArchitectureConfig(BaseModel):
    """Base of what shapes a network: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Network(nn.Module):
    """Base of all networks: it can say how large it is."""

    def get_num_total_params(self) -> int:
        """Return the number of values in all parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def get_num_trainable_params(self) -> int:
        """Return the number of values in the parameters that training changes."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


Build = Callable[[Any], Network]


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes:
        name: Unique within its family.
        description: For people.
        config: Class of its config.
        build: Makes the network from a valid config, with fresh random weights.
        trained: False for an algorithm that has nothing to learn: it is measured, exported and published as it is.
    """

    name: str
    description: str
    config: type[ArchitectureConfig]
    build: Build
    trained: bool = True

    def parse_config(self, values: Mapping[str, Any]) -> ArchitectureConfig:
        """Return the config with defaults filled in; InvalidArgumentError for an unknown field (the known are listed) or a wrong value."""
        return validate(self.config, values, field="spec.model_config", what="model config field")

    def parameters(self) -> int:
        """Return the number of parameters with the default config, without spending memory on them."""
        with torch.device("meta"):
            return self.build(self.config()).get_num_total_params()


class ArchitectureRegistry:
    """The architectures of one family."""

    def __init__(self) -> None:
        self._architectures: dict[str, Architecture] = {}

    def register(self, name: str, *, config: type[ArchitectureConfig], description: str, trained: bool = True) -> Callable[[Build], Build]:
        """Return a decorator that registers the function below it as the way to build `name`; ValueError if the name is taken."""

        def add(build: Build) -> Build:
            if name in self._architectures:
                raise ValueError(f"architecture {name!r} is registered twice")
            self._architectures[name] = Architecture(name, description, config, build, trained)
            return build

        return add

    def get(self, name: str) -> Architecture:
        """Return an architecture; InvalidArgumentError, listing the known ones, if there is none of that name."""
        if name not in self._architectures:
            raise InvalidArgumentError.unknown("architecture", name, self._architectures, field="spec.architecture")
        return self._architectures[name]

    def build(self, name: str, config: Mapping[str, Any]) -> Network:
        """Return a network of the named architecture; InvalidArgumentError for an unknown name or a wrong config."""
        architecture = self.get(name)
        return architecture.build(architecture.parse_config(config))

    def __iter__(self) -> Iterator[Architecture]:
        """Iterate over the architectures by name."""
        return iter(sorted(self._architectures.values(), key=lambda architecture: architecture.name))
