"""What holds for every file of the repository."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 400


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def hand_written(*suffixes: str) -> list[Path]:
    return [path for path in tracked() if path.suffix in suffixes and ROOT / "tessera/api" not in path.parents]


def test_no_hand_written_file_is_longer_than_400_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in hand_written(".py", ".proto", ".sh", ".js", ".md")
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_weights_and_settings_are_never_pickled() -> None:
    loaders = re.compile(r"^\s*(import|from) (c?pickle|dill|joblib|cloudpickle|shelve)\b|weights_only=False", re.MULTILINE)
    sources = [path for path in hand_written(".py") if (ROOT / "tests") not in path.parents]
    assert [path.name for path in sources if loaders.search(path.read_text())] == []


def test_no_file_names_a_home_directory() -> None:
    home = re.compile(rb"/(home|root|Users)/[a-z]")
    text = [path for path in tracked() if path.suffix in {".py", ".md", ".toml", ".sh", ".yaml", ".yml", ".proto", ".json", ".txt"}]
    assert [path.name for path in text if home.search(path.read_bytes()) and path != Path(__file__)] == []


def test_no_document_holds_a_placeholder() -> None:
    placeholder = re.compile(r"\b(TODO|FIXME|TBD|XXX)\b|^[A-Z]+_[A-Z_]+$", re.MULTILINE)
    assert [path.name for path in hand_written(".md") if placeholder.search(path.read_text())] == []
