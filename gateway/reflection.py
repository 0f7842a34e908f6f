"""Server reflection: the services by their public names, from a descriptor pool of our own.

The process-wide pool knows the Open Inference Protocol under our private package only, so that another client's stubs
import beside ours; what is served, and described, bears the protocol's own name.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from gateway.v1 import admin_pb2, inference_pb2, scoring_pb2

PRIVATE: Final = "gateway.v1"
PUBLIC: Final = "inference"
SERVING: Final = ("gateway.v1.ScoringService", "inference.GRPCInferenceService", "grpc.health.v1.Health")
ADMINISTRATION: Final = ("gateway.v1.AdminService", "grpc.health.v1.Health")


def add_reflection(server: Any, services: tuple[str, ...]) -> None:
    """Describes the services of a server, which may be of either kind of grpcio's."""
    reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server, pool=_pool())


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for module in (health_pb2, reflection_pb2, scoring_pb2, admin_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_public(inference_pb2.DESCRIPTOR.serialized_pb))
    return pool


def _public(serialized: bytes) -> bytes:
    """The file under the protocol's own package."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    file.package = PUBLIC
    for message in file.message_type:
        _rename(message)
    for service in file.service:
        for method in service.method:
            method.input_type = _public_name(method.input_type)
            method.output_type = _public_name(method.output_type)
    return file.SerializeToString()


def _rename(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _public_name(field.type_name)
    for nested in message.nested_type:
        _rename(nested)


def _public_name(name: str) -> str:
    return name.replace(f".{PRIVATE}.", f".{PUBLIC}.", 1)
