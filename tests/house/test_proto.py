"""The wire: generated code is up to date, and what the baseline promised still holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from tests.support.house import ROOT

PROTO = ROOT / "proto"
BYTES, STRING = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.TYPE_STRING

IDENTIFIERS = {"id", "parent", "replica", "op_id", "volume_id", "commit_id", "table_digest"}
RAW = {"digest", "digests", "path", "paths", "old_path", "target", "inline", "data"}
TEXT_NAMES = {
    "Author.name",
    "Located.author",
    "Holder.author",
    *(f"{message}.host" for message in ("Holder", "UserLock", "LockRequest", "UnlockRequest")),
    *(f"{message}.reason" for message in ("Holder", "UserLock", "LockRequest")),
}
"""Names of people and machines, and what people say, are text; names of entries are not."""


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    target = tmp_path_factory.mktemp("wire") / "now.binpb"
    include = resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{include}",
        f"--descriptor_set_out={target}",
        *sources,
    ]
    assert protoc.main(arguments) == 0
    return FileDescriptorSet.FromString(target.read_bytes())


@pytest.fixture(scope="module")
def baseline() -> FileDescriptorSet:
    # An image of buf is a FileDescriptorSet with some extension fields.
    return FileDescriptorSet.FromString((PROTO / "baseline.binpb").read_bytes())


def messages(files: FileDescriptorSet) -> dict[str, DescriptorProto]:
    def below(prefix: str, found: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
        name = f"{prefix}.{found.name}"
        yield name, found
        for nested in found.nested_type:
            yield from below(name, nested)

    return {
        name: message
        for file in files.file
        for top in file.message_type
        for name, message in below(file.package, top)
    }


def enums(files: FileDescriptorSet) -> dict[str, EnumDescriptorProto]:
    top = {f"{file.package}.{enum.name}": enum for file in files.file for enum in file.enum_type}
    nested = {
        f"{name}.{enum.name}": enum
        for name, message in messages(files).items()
        for enum in message.enum_type
    }
    return top | nested


def field_shape(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return field.name, field.type, field.label, field.type_name, oneof, field.proto3_optional


def breaks(baseline: FileDescriptorSet, now: FileDescriptorSet) -> list[str]:
    """Return what the wire of now does to those who speak the wire of the baseline."""
    found = []
    for name, old in messages(baseline).items():
        new = messages(now).get(name)
        if new is None:
            found.append(f"message {name} is gone")
            continue
        fields = {field.number: field for field in new.field}
        reserved = {number for span in new.reserved_range for number in range(span.start, span.end)}
        for field in old.field:
            heir = fields.get(field.number)
            if heir is None and field.number not in reserved:
                found.append(f"field {name}.{field.name} is gone and its number is not reserved")
            elif heir is not None and field_shape(old, field) != field_shape(new, heir):
                found.append(f"field {name}.{field.name} has changed")
    for name, enum in enums(baseline).items():
        values = {value.number: value.name for value in enums(now)[name].value}
        found += [
            f"value {value.name} has changed"
            for value in enum.value
            if values.get(value.number) != value.name
        ]
    methods = {method for file in now.file for method in described_methods(file)}
    found += [
        f"method {method[0]} has changed"
        for file in baseline.file
        for method in described_methods(file)
        if method not in methods
    ]
    return found


def described_methods(file: FileDescriptorProto) -> list[tuple[str, str, str, bool, bool]]:
    return [
        (
            f"{service.name}.{method.name}",
            method.input_type,
            method.output_type,
            method.client_streaming,
            method.server_streaming,
        )
        for service in file.service
        for method in service.method
    ]


def test_the_generated_code_is_what_the_proto_says() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_proto.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_wire_of_the_baseline_is_not_broken(
    baseline: FileDescriptorSet, now: FileDescriptorSet
) -> None:
    assert len(messages(baseline)) > 40
    assert breaks(baseline, now) == []


def entry_field(files: FileDescriptorSet, number: int) -> FieldDescriptorProto:
    return messages(files)["syncline.v1.Entry"].field[number - 1]


def renumber(files: FileDescriptorSet) -> None:
    entry_field(files, 2).number = 99


def retype(files: FileDescriptorSet) -> None:
    entry_field(files, 4).type = STRING


def rename(files: FileDescriptorSet) -> None:
    entry_field(files, 2).name = "version"


def repeat(files: FileDescriptorSet) -> None:
    entry_field(files, 1).label = FieldDescriptorProto.LABEL_REPEATED


def drop_field(files: FileDescriptorSet) -> None:
    del messages(files)["syncline.v1.Entry"].field[3]


def drop_message(files: FileDescriptorSet) -> None:
    del files.file[0].message_type[0]


def renumber_enum(files: FileDescriptorSet) -> None:
    enums(files)["syncline.v1.Kind"].value[1].number = 9


def drop_method(files: FileDescriptorSet) -> None:
    del files.file[0].service[0].method[0]


def stop_streaming(files: FileDescriptorSet) -> None:
    files.file[0].service[0].method[1].client_streaming = False


@pytest.mark.parametrize(
    "damage",
    [
        renumber,
        retype,
        rename,
        repeat,
        drop_field,
        drop_message,
        renumber_enum,
        drop_method,
        stop_streaming,
    ],
    ids=lambda damage: damage.__name__,
)
def test_the_comparison_sees_a_break(
    baseline: FileDescriptorSet, damage: Callable[[FileDescriptorSet], None]
) -> None:
    broken = FileDescriptorSet()
    broken.CopyFrom(baseline)
    damage(broken)
    assert breaks(baseline, broken)


def test_a_new_field_and_a_reserved_number_are_no_break(baseline: FileDescriptorSet) -> None:
    grown = FileDescriptorSet()
    grown.CopyFrom(baseline)
    entry = messages(grown)["syncline.v1.Entry"]
    entry.field.add(name="more", number=77, type=BYTES)
    dropped = entry.field.pop(3)
    entry.reserved_range.add(start=dropped.number, end=dropped.number + 1)
    assert breaks(baseline, grown) == []


def test_the_zero_of_every_enum_means_nothing(now: FileDescriptorSet) -> None:
    assert enums(now)
    for name, enum in enums(now).items():
        assert enum.value[0].number == 0
        assert enum.value[0].name.endswith("_UNSPECIFIED"), name


def test_names_paths_and_identifiers_are_bytes(now: FileDescriptorSet) -> None:
    looked_at = 0
    for name, message in messages(now).items():
        for field in message.field:
            if field.type == FieldDescriptorProto.TYPE_MESSAGE:
                continue
            called = f"{name.rsplit('.', 1)[-1]}.{field.name}"
            if field.name in IDENTIFIERS | RAW or (
                field.name == "name" and called not in TEXT_NAMES
            ):
                looked_at += 1
                assert field.type == BYTES, called
    assert looked_at > 30


def test_text_is_for_people_alone(now: FileDescriptorSet) -> None:
    """A `string` must be UTF-8: whatever may come from a file system cannot be one."""
    texts = {
        f"{name.rsplit('.', 1)[-1]}.{field.name}"
        for name, message in messages(now).items()
        for field in message.field
        if field.type == STRING
    }
    allowed = {"volume", "volume_name", "client_version", "server_version", "capabilities"}
    kept = {text for text in texts if text.split(".")[1] not in allowed | {"detail"}}
    assert kept <= TEXT_NAMES, kept


def test_every_module_of_the_wire_is_ours(now: FileDescriptorSet) -> None:
    assert {file.package for file in now.file} == {"syncline.v1"}
    for file in now.file:
        assert Path(file.name).parts[:2] == ("syncline", "v1")
