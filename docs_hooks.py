"""What the site needs beside docs/: the pages that stand elsewhere in the repository, and links that leave docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
ELSEWHERE = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages of the repository, and of the site."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """``Title: folder/*`` in the navigation stands for a folder's pages, ``folder/*.zh-CN`` for those in Chinese."""
    for section in config.nav or []:
        for entries in (e for e in section.values() if isinstance(e, list)):
            for entry in (e for e in entries if isinstance(e, dict)):
                for title, path in entry.items():
                    folder, star, language = str(path).partition("/*")
                    if star:
                        pages = sorted((ROOT / "docs" / folder).glob("*.md"), key=lambda p: (p.stem != "README", p))
                        own = [page for page in pages if page.stem.endswith(".zh-CN") == bool(language)]
                        entry[title] = [str(page.relative_to(ROOT / "docs")) for page in own]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand outside docs/."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links between pages as they lie in the site; whatever is no page of it is shown in the repository."""
    here = page.file.src_uri
    source = next((path for path, name in ELSEWHERE.items() if name == here), f"docs/{here}")

    def moved(found: re.Match[str]) -> str:
        target, anchor = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1])), found[2] or ""
        if not (ROOT / target).exists():
            raise PluginError(f"{source} links to {target}, which is not there: correct the link.")
        inside = ELSEWHERE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is not None and files.get_file_from_path(inside) is not None:
            return posixpath.relpath(inside, posixpath.dirname(here) or ".") + anchor
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{target}{anchor}"

    return LINK.sub(moved, markdown)
