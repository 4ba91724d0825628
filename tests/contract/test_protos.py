"""The contracts under protos/ and the code generated from them."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUF = ROOT / ".tools/node_modules/.bin/buf"


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi"}
    }


def baseline() -> str:
    """Return the git reference to compare with: the newest release tag, else main as last fetched, else the last commit."""
    tags = run("git", "tag", "--list", "v*", "--sort=-version:refname").stdout.split()
    if tags:
        return tags[0]
    has_remote = run("git", "rev-parse", "--verify", "--quiet", "origin/main").returncode == 0
    return "origin/main" if has_remote else "HEAD"


def breaking(against: Path, protos: Path) -> subprocess.CompletedProcess[str]:
    return run(BUF, "breaking", "--against", against, cwd=protos)


def test_protos_follow_the_lint_rules() -> None:
    result = run(BUF, "lint", cwd=ROOT / "protos")
    assert result.returncode == 0, result.stdout


def test_checked_in_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    result = run("env", f"VENV={Path(sys.prefix)}", ROOT / "scripts/protos.sh", tmp_path)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "tessera/api") == tree(ROOT / "tessera/api"), "run `make protos` and commit the result"


def test_protos_break_no_released_client(tmp_path: Path) -> None:
    reference = baseline()
    archive = tmp_path / "protos.tar"
    assert run("git", "archive", "--output", archive, reference, "protos").returncode == 0, f"cannot read protos/ at {reference}"
    shutil.unpack_archive(archive, tmp_path)
    result = breaking(tmp_path / "protos", ROOT / "protos")
    assert result.returncode == 0, f"against {reference}:\n{result.stdout}"


def test_the_breaking_check_finds_a_removed_field(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    changed = tmp_path / "protos/tessera/api/common/v1/common.proto"
    text = changed.read_text()
    field = "  int64 token = 2;\n"
    assert field in text
    changed.write_text(text.replace(field, ""))
    result = breaking(ROOT / "protos", tmp_path / "protos")
    assert result.returncode != 0
    assert 'field "2" with name "token" on message "Fence"' in result.stdout
