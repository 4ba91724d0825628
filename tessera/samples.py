"""Samples: what single requests took and gave, which an inference server keeps in the registry's blob store if it is told to.

A sample is one safetensors file with the tensors `inputs.NAME` and `outputs.NAME`, rows as their first axis, and with what else is known
as texts in its header (`safe_open(path, "numpy").metadata()`). Strings are bytes behind their lengths (`tessera.strings.unpack`); the
header has their shape under the tensor's name. A lease keeps the file for a while; the name of the lease's holder says what it is a
sample of, so that a list of leases is a list of samples.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.names import check_name

_PREFIX = "sample"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class SampleName:
    """What a sample is one of.

    Attributes:
        model: The model.
        version: Version that computed it.
        time: When, in UTC.
        trace_id: Trace of the call, 32 hexadecimal digits.
    """

    model: str
    version: int
    time: datetime
    trace_id: str

    def holder(self) -> str:
        """Return the holder of the sample's lease, at most 256 characters."""
        return "/".join((_PREFIX, self.model, str(self.version), self.time.astimezone(UTC).strftime(_TIME), self.trace_id))

    @classmethod
    def parse(cls, holder: str) -> "SampleName | None":
        """Return what a holder's name says, None if it is no sample's."""
        try:
            prefix, model, version, time, trace_id = holder.split("/")
            name = cls(check_name(model, "holder"), int(version), datetime.strptime(time, _TIME).replace(tzinfo=UTC), trace_id)
        except (ValueError, InvalidArgumentError):
            return None
        return name if prefix == _PREFIX else None


@dataclass(frozen=True)
class Sample:
    """A stored sample.

    Attributes:
        name: What it is one of.
        sha256: Its file in the blob store.
        expire_time: Until when it is kept for certain, in UTC.
    """

    name: SampleName
    sha256: str
    expire_time: datetime

    @property
    def file_name(self) -> str:
        """A name for a copy of it."""
        return f"{self.name.model}-{self.name.version}-{self.name.time:%Y%m%dT%H%M%S.%fZ}-{self.sha256[:12]}.safetensors"

    @classmethod
    def of(cls, lease: pb.Lease) -> "Sample | None":
        """Return the sample that a lease keeps, None if it keeps something else."""
        name = SampleName.parse(lease.holder)
        return cls(name, lease.blob_sha256, lease.expire_time.ToDatetime(tzinfo=UTC)) if name and lease.blob_sha256 else None


def prefix(model: str = "", version: int = 0) -> str:
    """Return how the holders of all samples begin: of a version, of a model, or of all (empty)."""
    return "/".join(part for part in (_PREFIX, model, str(version) if version else "") if part) + "/"
