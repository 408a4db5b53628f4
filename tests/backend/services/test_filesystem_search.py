"""Full-text search in a project's files."""

from __future__ import annotations

import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.services.filesystem.folders import ProjectFolders
from backend.services.filesystem.locks import NamedLocks
from backend.services.filesystem.receipts import Receipts
from backend.services.filesystem.saving import Save, Saver
from backend.services.filesystem.search import SearchIndex
from service_utils.testing import FakeClock

FTS_SYNTAX = """ " ' AND OR NOT NEAR NEAR(a * ^ : content: project: {path} ( ) - + -- ; % _ \\ """.split()
FTS_WORDS = st.sampled_from([*FTS_SYNTAX, "\0", "circuit", "é", "人", "\u0301", "²", "\ufffd", "😀"])


class Project:
    """The files of a project and their index."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.folders = ProjectFolders(folder / "projects")
        self.saver = Saver(self.folders, NamedLocks(folder / "locks"), Receipts(folder / "receipts.db"))
        self.index = self.opened_again()

    def opened_again(self) -> SearchIndex:
        return SearchIndex(self.folder / "search.db", self.folders, clock=self.clock)

    def save(self, path: str, text: str, project: str = "p") -> None:
        written = self.saver.save(Save(project, path, text)).written
        assert written is not None
        self.index.update(project, path, written)

    def found(self, query: str, project: str = "p") -> list[str]:
        return [found.file_path for found in self.index.search(project, query, 100)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_words_are_found(project: Project) -> None:
    """Files with any of the words are found, in whatever form and case the words are."""
    project.save("breaker.md", "The Circuit BREAKERS open.")
    project.save("fruit.md", "Bananas are yellow.")
    project.save("café.md", "Ein Café")
    assert project.found("which circuit breaker is open?") == ["breaker.md"]
    assert project.found("cafe") == ["café.md"]
    assert project.found("nothing") == []


def test_the_best_file_comes_first(project: Project) -> None:
    """A file that has more of the words, and rarer ones, comes first; scores fall."""
    for number in range(20):
        project.save(f"other-{number}.md", "the service is a common word in these files")
    project.save("half.md", "the service has a circuit")
    project.save("whole.md", "the service has a circuit breaker")
    results = project.index.search("p", "circuit breaker of the service", 5)
    assert [found.file_path for found in results][:2] == ["whole.md", "half.md"]
    scores = [found.score for found in results]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0


def test_a_path_is_found(project: Project) -> None:
    """A word of the path counts, and counts more than one of the content."""
    project.save("notes.md", "a plan for autumn")
    project.save("autumn/plan.md", "things to do")
    assert project.found("autumn plan")[0] == "autumn/plan.md"


def test_equal_files_come_in_the_order_of_their_paths(project: Project) -> None:
    """What is equally good is ordered by path."""
    for name in ("c", "a", "b"):
        project.save(f"x/{name}", "the same")
    assert project.found("same") == ["x/a", "x/b", "x/c"]


def test_projects_are_apart(project: Project) -> None:
    """A search finds nothing of another project, also when one is named like a word of a file."""
    project.save("a.md", "secret", project="other")
    project.save("b.md", "other secret", project="p")
    assert project.found("secret") == ["b.md"]
    assert project.found("other") == ["b.md"]
    assert project.found("secret", project="OTHER") == []


def test_a_snippet_shows_the_place(project: Project) -> None:
    """A long file gives a snippet and a longer piece around the word, a short one its whole text."""
    words = [f"word{number}" for number in range(2000)]
    project.save("long.md", " ".join(words))
    project.save("short.md", "only word1000 here")
    short, long = project.index.search("p", "word1000", 5)
    assert short.text == "only word1000 here"
    assert "word1000" in long.snippet
    assert "word1000" in long.text
    assert len(long.snippet) < len(long.text) < 2000


def test_a_saved_file_is_found_at_once(project: Project) -> None:
    """What was saved is found by the next search, and what it replaced no longer is."""
    project.save("a.md", "apple")
    assert project.found("apple") == ["a.md"]
    project.save("a.md", "pear")
    assert (project.found("apple"), project.found("pear")) == ([], ["a.md"])


def test_edits_by_other_hands_are_found_soon(project: Project) -> None:
    """Files that others add, change or delete are found, or no longer found, seconds later."""
    project.save("changed.md", "apple")
    project.save("deleted.md", "apple")
    assert project.found("apple") == ["changed.md", "deleted.md"]
    folder = project.folder / "projects" / "p"
    (folder / "changed.md").write_text("a cherry")
    (folder / "deleted.md").unlink()
    (folder / "added.md").write_text("apple")
    project.clock.advance(5)
    assert project.found("apple") == ["added.md"]
    assert project.found("cherry") == ["changed.md"]


def test_a_missing_index_is_made_again(project: Project) -> None:
    """Without its database the index is built from the files."""
    project.save("a.md", "apple")
    project.index.close()
    for suffix in ("", "-wal", "-shm"):
        (project.folder / f"search.db{suffix}").unlink(missing_ok=True)
    project.index = project.opened_again()
    assert project.found("apple") == ["a.md"]


def test_a_damaged_index_is_made_again(project: Project) -> None:
    """The same for a file that is no database."""
    project.save("a.md", "apple")
    project.index.close()
    (project.folder / "search.db").write_bytes(b"no database " * 1000)
    project.index = project.opened_again()
    assert project.found("apple") == ["a.md"]


def test_a_save_that_never_came_to_the_index(project: Project) -> None:
    """A file whose process was killed between saving and indexing is found by the next process."""
    project.saver.save(Save("p", "a.md", "apple"))
    assert project.opened_again().search("p", "apple", 5)[0].file_path == "a.md"


def test_a_late_index_of_an_old_content_is_ignored(project: Project) -> None:
    """Of two saves in a row the later one stays in the index, in whatever order they come to it."""
    project.found("nothing")  # the folder has just been compared
    first = project.saver.save(Save("p", "a.md", "apple")).written
    second = project.saver.save(Save("p", "a.md", "pear")).written
    assert first is not None
    assert second is not None
    project.index.update("p", "a.md", second)
    project.index.update("p", "a.md", first)
    assert (project.found("apple"), project.found("pear")) == ([], ["a.md"])


def test_bytes_that_are_no_text(project: Project) -> None:
    """A file that is no UTF-8 is found by its path."""
    project.save("picture.png", "x")
    (project.folder / "projects" / "p" / "picture.png").write_bytes(b"\xff\xfe\x00apple")
    project.clock.advance(5)
    assert project.found("apple") == []
    assert project.found("picture") == ["picture.png"]


def test_many_files_are_indexed(project: Project) -> None:
    """A folder with more files than are indexed in one go is indexed whole."""
    folder = project.folder / "projects" / "p"
    folder.mkdir()
    for number in range(250):
        (folder / f"{number}.txt").write_text("apple")
    assert len(project.index.search("p", "apple", 1000)) == 250


def test_threads_save_and_search(project: Project) -> None:
    """Many threads that save and search at once leave an index that is right."""

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(15):
            name = f"{chance.randrange(5)}.md"
            project.save(name, f"apple{chance.randrange(1000)} everywhere")
            project.found("everywhere")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    names = sorted(path for path, _ in project.folders.files("p"))
    assert project.found("everywhere") == names
    for name in names:
        word = project.folders.read("p", name).data.decode().split()[0]
        assert name in project.found(word)
    with sqlite3.connect(project.folder / "search.db") as connection:
        assert connection.execute("SELECT count(*) FROM texts").fetchone() == (len(names),)


@pytest.mark.parametrize("query", ["", "   ", "???", '"', "* AND", "😀", "_"])
def test_a_query_without_words(project: Project, query: str) -> None:
    """A query without any letter or digit finds nothing."""
    project.save("a.md", "and the star * is _ here 😀 ???")
    assert project.found(query) == ([] if "AND" not in query else ["a.md"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=100),
        st.lists(FTS_WORDS, max_size=12).map(" ".join),
        st.lists(FTS_WORDS).map("".join),
    )
)
def test_no_query_is_too_strange(project: Project, query: str) -> None:
    """Whatever is typed, it is searched for as words: no syntax, no error."""
    if not (project.folder / "projects" / "p").exists():
        project.save("a.md", "circuit breaker é 人 ²")
    assert project.found(query) in ([], ["a.md"])
    assert project.found(f"{query} circuit") == ["a.md"]


def test_a_word_is_found_inside_a_strange_query(project: Project) -> None:
    """Words that are commands to the index are words here."""
    project.save("a.md", "near and not or")
    project.save("b.md", "something else")
    assert project.found("NOT something") == ["b.md", "a.md"] or project.found("NOT something") == [
        "a.md",
        "b.md",
    ]
    assert project.found("path:near") == ["a.md"]
