"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import re

import pytest

from documents import DOCUMENTS
from stack import ROOT
from supervisor.cli import cli


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_drawn_from_the_code_is_up_to_date(path: object) -> None:
    render = next(render for known, render in DOCUMENTS.items() if known == path)
    written = next(known for known in DOCUMENTS if known == path).read_text(encoding="utf-8")
    assert written == render(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_is_described_with_an_example(name: str) -> None:
    command = cli.commands[name]
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
