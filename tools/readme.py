"README.md from nbs/index.ipynb: run it, keep the prose, the code that its directives show, and the results"
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
HEAD = "<!-- Made from nbs/index.ipynb by `make readme`: edit that. -->"
DIRECTIVE = re.compile(r"^#\|[ \t]*(.*?)[ \t]*(?:\n|$)", re.M)


def result(output):
    "Markdown as it is, text in a fence; what a README cannot hold is refused"
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/markdown" in data: return data["text/markdown"].strip()
    if not set(data) <= {"text/plain", "text/html"}: raise ValueError(f"the index shows {', '.join(data)}: link a recorded figure in Markdown instead")
    text = re.sub(r"\x1b\[[0-9;]*m", "", data["text/plain"]).strip("\n")
    return f"```\n{text}\n```" if text else ""


def parts(cell):
    "What a reader sees of one cell"
    if cell.cell_type != "code": return [cell.source.strip()] if cell.cell_type == "markdown" else []
    directives, source = set(DIRECTIVE.findall(cell.source)), DIRECTIVE.sub("", cell.source).strip()
    if "hide" in directives: return []
    shown = [] if directives & {"hide_input", "echo: false"} else [f"```python\n{source}\n```"]
    return shown + [result(o) for o in cell.outputs if o.get("name") != "stderr"]


def readme(notebook):
    "The Markdown of an executed copy of `notebook`, links as seen from the folder above it"
    nb = nbformat.read(notebook, as_version=4)
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(Path(notebook).parent)}}).execute()
    text = "\n\n".join([HEAD, *filter(None, (part for cell in nb.cells for part in parts(cell)))]) + "\n"
    return re.sub(r'(\]\(|src=")\.\./', r"\1", text)


if __name__ == "__main__": (ROOT/"README.md").write_text(readme(ROOT/"nbs"/"index.ipynb"), encoding="utf-8")
