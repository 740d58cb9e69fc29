"""XML from outside, read without entities, without a network and without endless depth."""

import html.entities
from typing import Any


def parse(data: bytes) -> Any:
    """Root of an XML document. Entities stay unresolved, external ones are never fetched; lxml limits depth and size.

    Raises ValueError for what is not XML.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=True, remove_comments=True,
        remove_pis=True, encoding="utf-8" if data[:1] == b"<" and b"encoding" not in data[:200] else None,
    )  # fmt: skip
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML: {error}") from None
    if root is None:
        raise ValueError("not XML")
    for entity in list(root.iter(etree.Entity)):
        _replace(entity, html.unescape(entity.text) if entity.text[1:-1] in html.entities.name2codepoint else "")
    return root


def _replace(entity: Any, text: str) -> None:
    """Put text in the place of an entity."""
    parent, before = entity.getparent(), entity.getprevious()
    text += entity.tail or ""
    if before is not None:
        before.tail = (before.tail or "") + text
    elif parent is not None:
        parent.text = (parent.text or "") + text
    if parent is not None:
        entity.tail = None
        parent.remove(entity)


def name_of(element: Any) -> str:
    """Tag without its namespace; "" for comments and entities."""
    return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""
