"""The YAML of a sweep's file: what is written there is what is meant, or it is refused.

PyYAML on its own keeps the last of two equal keys, and reads 010 as 8, 1:30 as 90 and 1.10 as 1.1. Here a key stands once, there
are no tags, and every scalar but true, false (yes, no, on, off) and null is the text that was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import EXIT_NO_INPUT, EXIT_USAGE, OrchestratorError

_KEPT = frozenset(f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "merge"))


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"there is a tag, {event.tag}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Before `<<` is merged: a key that stands beside a merged one of the same name is meant to."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag in _KEPT]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(file: Path) -> Any:
    """What stands in `file`: dicts, lists, texts, booleans and None.

    Raises `OrchestratorError`: exit 66 where it cannot be read, 2 where it is no regular file (a pipe could be waited for without
    end) or no YAML as above.
    """
    try:
        if not file.is_file() and file.exists():
            raise OrchestratorError(f"{file} is no regular file", "write the sweep into a file", exit_code=EXIT_USAGE)
        text = file.read_bytes()
    except OSError as error:
        raise OrchestratorError(
            f"{file} cannot be read: {error.strerror}", "name a file of a sweep: docs/docker.md has one", exit_code=EXIT_NO_INPUT
        ) from error
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        why = "it is nested too deep"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: "\UFFFFFFFF"
        why = " ".join(str(error).split())
    raise OrchestratorError(
        f"{file} is not YAML: {why}", "correct it; every key may stand once, without tags", exit_code=EXIT_USAGE
    )
