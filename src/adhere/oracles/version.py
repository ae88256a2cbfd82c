"""Versions of oracles: a short digest of everything a score depends on."""

from __future__ import annotations

import hashlib
import json


def version_of(**settings: object) -> str:
    """Twelve hexadecimal digits that change when any of the settings (plain JSON data) changes."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
