"""A digest of what code computes: it ignores how the code is worded, where it is kept and how it is typed.

Left out are docstrings (the bare strings below attributes too), comments, annotations, imports, `__all__`, `__str__`
methods and what a `raise` statement holds. What remains is hashed one top-level statement at a time, and the hashes are
sorted, so that a function may move to another file. A changed constant, operator or name changes the digest.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

_NO_MEANING = ("ctx", "kind", "type_comment", "type_params")
"""Fields of syntax trees that change no result, or that older versions of Python do not have."""


def code_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 (hex) over the computing code of these files and folders.

    Raises:
        FileNotFoundError: If a path does not exist.
        SyntaxError: If a file is not Python.
    """
    statements = [
        statement for path in paths for file in _files(path) for statement in _of(file.read_text(), str(file))
    ]
    return hashlib.sha256(b"".join(sorted(statements))).hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return path.rglob("*.py")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is among the roots of a code digest, but there is no such file or folder")
    return [path]


@functools.cache  # one file is below many roots: the pages ask for the digests of some thousands of files
def _of(code: str, where: str) -> list[bytes]:
    """A digest of every top-level statement that computes something in the code of a file."""
    tree = ast.parse(code, where)
    kept = (_Computing().visit(statement) for statement in tree.body)
    return [hashlib.sha256(_text(each).encode()).digest() for each in kept if each is not None]


def _text(node: object) -> str:
    """A syntax tree as text that is the same under every Python version, unlike that of `ast.dump`."""
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = {name: getattr(node, name, None) for name in node._fields if name not in _NO_MEANING}
    held = [f"{name}={_text(part)}" for name, part in parts.items() if part is not None and part != []]
    return f"{type(node).__name__}({','.join(held)})"


class _Computing(ast.NodeTransformer):
    """Removes from a tree what computes nothing."""

    def visit_Import(self, _node: ast.Import) -> None:
        """Drop an import: it says where a thing is kept."""

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        """Drop an import."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop a bare string, as docstrings are."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop `__all__`."""
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return None if names == ["__all__"] else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Keep name and value. A field without a value keeps its name, since a dataclass takes it as an argument."""
        plain = ast.Assign([node.target], node.value or ast.Constant(None), lineno=0)
        return self.generic_visit(plain)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Drop an argument's annotation."""
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        """Drop the annotation of what a function returns, and `__str__`: it says what was computed before."""
        if node.name == "__str__":
            return None
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Drop the annotation of what a function returns."""
        node.returns = None
        return self.generic_visit(node)

    def visit_Raise(self, _node: ast.Raise) -> ast.AST:
        """Keep only that something is raised: errors may be reworded."""
        return ast.Raise()
