"""The registry of the family: its networks; its engines register themselves, see `engines.architectures`."""

from trainers.architectures import ArchitectureRegistry
from trainers.families.ptycho.config import NetworkConfig, ResidualConfig
from trainers.families.ptycho.networks import ConvolutionalNetwork
from trainers.families.ptycho.residual import ResidualNetwork

ARCHITECTURES = ArchitectureRegistry()


@ARCHITECTURES.register("cnn", config=NetworkConfig, description="Encoder and two decoders: 2,334,146 parameters at N = 64.")
def cnn(config: NetworkConfig) -> ConvolutionalNetwork:
    """Build the network of Hoidn, Mishra and Mehta (2023)."""
    return ConvolutionalNetwork(config)


@ARCHITECTURES.register("resnet", config=ResidualConfig, description="Modulus projections with residual U-Nets between: for all N.")
def resnet(config: ResidualConfig) -> ResidualNetwork:
    """Build the hybrid."""
    return ResidualNetwork(config)
