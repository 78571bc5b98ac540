"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from documents import DOCUMENTS
from stack import BIN, ROOT, build_environment
from supervisor.cli.entry import NAMES, cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_drawn_from_the_code_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == DOCUMENTS[path](), "run `make docs`"


def test_the_documented_help_is_what_the_installed_program_prints() -> None:
    environment = {**build_environment(), "COLUMNS": "80"}
    for names in ([], *([name] for name in NAMES)):
        command = [str(BIN / "ptsup"), *names, "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert f"```text\n{done.stdout}```" in DOCUMENTS[ROOT / "docs" / "cli.md"]()


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_is_described_with_an_example(name: str) -> None:
    command = cli.get_command(None, name)
    assert command
    assert command.help
    assert command.epilog, f"{name} has no examples"
    assert "examples:" in command.epilog
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
